"""Random histories of the whole product, in which much goes wrong and nothing may be lost.

A few of them, and that they would notice: `make sim` tells thousands.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simulation import patches
from simulation.broken import BROKEN, Broken
from simulation.many import little_collecting, story_of, tell

SEEDS = (*range(20), 359, 447)  # the last two: a save that is interrupted, a log entry that is given up
SEARCHED = range(400)
"""Seeds among which a broken rule must be noticed, should a change of the product have changed the story of its own."""


@pytest.fixture(autouse=True, scope="module")
def in_simulation() -> Iterator[None]:
    with patches.installed(), little_collecting():
        yield


def test_histories() -> None:
    """Whatever kills, storages and networks do, the checks of `simulation.checks` hold. Guards against a history that
    breaks a promise."""
    told = tell(SEEDS)
    for failure in told.failures[:1]:
        pytest.fail("\n".join([*failure.story, f"seed {failure.seed}: {failure.what}"]))


def test_a_seed_replays() -> None:
    """A seed replays exactly. Guards against a story whose bug nobody can find."""
    for seed in range(20, 30):
        assert story_of(seed).run().digest == story_of(seed).run().digest


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.rule)
def test_a_broken_rule_is_noticed(broken: Broken) -> None:
    """Each broken rule is noticed in its kept seed. Guards against a proof that cannot fail."""
    with broken.change():
        for seeds in ([broken.seed], SEARCHED):
            for seed in seeds:
                for failure in tell([seed]).failures:
                    assert failure.kind in broken.kinds, f"seed {seed}: {failure.what}"
                    return
    pytest.fail(f"no seed up to {SEARCHED.stop} notices")
