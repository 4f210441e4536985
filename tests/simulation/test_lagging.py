"""Every acknowledged commit is restored by the next start, however late some machine's mount shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import holdfast.restoring.agree
from holdfast.restoring.own_view import OwnView
from holdfast_coordinator.core.damage import Damage
from holdfast_storage.lag import Wait
from holdfast_storage.store.base import Store
from simulation import patches
from simulation.lagging import Restarts
from simulation.storage import Violation
from support.figures import Figure

SEEDS = 25


@pytest.fixture(autouse=True, scope="module")
def simulated() -> Iterator[None]:
    with patches.installed():
        yield


def test_nothing_acknowledged_is_abandoned(figure: Figure) -> None:
    """Nothing that was acknowledged is abandoned because of a mount. Guards against all going back, or starting from
    scratch, so that the next save abandons the last checkpoint."""
    restores, commits, longest = 0, 0, 0.0
    for seed in range(SEEDS):
        restarts = Restarts(seed)
        world = restarts.run()
        kinds = [entry.kind for entry in world.checks.entries]
        assert set(kinds) <= {"import", "lead", "commit", "retire", "abort"}, (
            "nobody went back, and nothing is condemned"
        )
        restores += world.counts["restores"]
        commits += kinds.count("commit")
        longest = max(longest, *restarts.spent)
        world.forget()
    figure("commits, and restores by a worker, with mounts that lag", f"{commits}, {restores}")
    figure("virtual seconds that the slowest of these restores took", round(longest, 1))
    assert restores > 10 * SEEDS
    assert longest > 20.0, "some of them have waited"


def outcome(seed: int) -> str:
    """The kind of violation with which a seed ends."""
    restarts = Restarts(seed)
    try:
        restarts.run()
    except Violation as violation:
        return violation.kind
    finally:
        restarts.world.forget()
    return ""


def test_who_does_not_wait_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not wait is noticed. Guards against a simulation in which nothing is ever late."""
    monkeypatch.setattr(holdfast.restoring.agree, "Wait", lambda patience: Wait(0.0))
    assert "ended" in {outcome(seed) for seed in range(4)}


def test_who_believes_one_reader_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believing one reader is noticed. Guards against going back because of what one worker does not see."""
    monkeypatch.setattr(holdfast.restoring.agree, "Wait", lambda patience: Wait(0.0))
    monkeypatch.setattr(Damage, "second", lambda self, prefix, since: "damaged")
    assert "restore" in {outcome(seed) for seed in range(4)}


def test_a_log_that_is_late_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that believes its own mount is noticed. Guards against missing the log's end on that mount."""

    class Blind(OwnView):
        def __init__(self, store: Store, known: int) -> None:
            super().__init__(store, known)
            self.entries = 0

        def has_checkpoints(self) -> bool:
            return False

    monkeypatch.setattr(holdfast.restoring.agree, "OwnView", Blind)
    assert "restore" in {outcome(seed) for seed in range(8)}
