"""The order of checkpoints in a directory that has no log."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence

from holdfast_storage.layout import parse_folder
from holdfast_storage.records import CheckpointRecord


def in_order(records: Iterable[CheckpointRecord], listed: Sequence[str]) -> list[CheckpointRecord]:
    """Sort records, oldest first, as far as their order can be known.

    `listed` has the prefixes of TensorFlow's `checkpoint` file, in its order, which is that of the log. The other
    records are placed by their time, but within their generation by ordinal: clocks can be wrong, ordinals cannot.
    """
    place = {prefix: number for number, prefix in enumerate(listed)}
    found = sorted(records, key=lambda record: place.get(record.prefix, math.inf))
    keys: dict[str, _Key] = {}
    generations: dict[str, list[tuple[int, CheckpointRecord]]] = {}
    latest = 0.0
    for record in found:
        attempt = None if record.stock else parse_folder(record.folder)
        if attempt is not None:
            generations.setdefault(attempt.generation, []).append((attempt.ordinal, record))
        if record.prefix in place:
            latest = max(latest, record.time)
            keys[record.prefix] = latest, place[record.prefix], 0
        else:
            keys[record.prefix] = record.time, _BY_TIME, attempt.ordinal if attempt else 0
    for saves in generations.values():
        _arrange(sorted(saves, key=lambda save: save[0]), place, keys)
    return sorted(found, key=lambda record: (keys[record.prefix], record.step, record.prefix))


_BY_TIME = -1.0  # comes before what is listed with the same time
_Key = tuple[float, float, int]  # a time, a place in the list, or between two of it, and an ordinal


def _arrange(saves: Sequence[tuple[int, CheckpointRecord]], listed: Container[str], keys: dict[str, _Key]) -> None:
    """Place the unlisted saves of a generation, by ordinal, after earlier and before later ones."""
    earlier = -math.inf, _BY_TIME
    for ordinal, record in saves:
        time, place, _ = keys[record.prefix]
        if record.prefix in listed:
            earlier = max(earlier, (time, place + 0.5))
        else:
            earlier = max(earlier, (time, place))
            keys[record.prefix] = *earlier, ordinal
    later = math.inf, _BY_TIME
    for ordinal, record in reversed(saves):
        time, place, _ = keys[record.prefix]
        if record.prefix in listed:
            later = min(later, (time, place - 0.5))
        else:
            keys[record.prefix] = *min(later, (time, place)), ordinal
