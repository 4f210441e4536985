"""The last call of each member of a world, of a kind whose calls are numbered."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_storage.cluster import Task


@dataclass(slots=True)
class LastCalls:
    """The last call of each member, by its ordinal: it asks for no earlier one any more.

    All that happens once for each call of each member must not look at all members.
    """

    counts: dict[int, int] = field(compare=False)  # how many members are at an ordinal
    at: dict[Task, int] = field(default_factory=dict)  # 0 for those that have not called

    def note(self, task: Task, ordinal: int) -> None:
        before = self.at.get(task, 0)
        if ordinal <= before:
            return
        self.at[task] = ordinal
        self.counts[before] -= 1
        if not self.counts[before]:
            del self.counts[before]
        self.counts[ordinal] = self.counts.get(ordinal, 0) + 1

    @property
    def earliest(self) -> int:
        """The ordinal before which no member asks for anything any more."""
        return min(self.counts)
