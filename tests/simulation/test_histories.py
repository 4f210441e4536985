"""Random histories of the whole product, in which much goes wrong and nothing may be lost.

A few of them, and that they would notice: `make sim` tells thousands.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from simulation import patches
from simulation.broken import BROKEN, Broken, interrupts_saves, loses_a_commit
from simulation.many import little_collecting, seeds_of, story_of, tell

SEEDS = range(20)
MOST = 200
"""Stories of which one must notice a broken rule. Of those that have what it takes, one in ten or more does."""


@pytest.fixture(autouse=True, scope="module")
def in_simulation() -> Iterator[None]:
    with patches.installed(), little_collecting():
        yield


def test_histories() -> None:
    """Whatever kills, storages and networks do, the checks of `simulation.checks` hold. Guards against a history that
    breaks a promise."""
    told = tell([*SEEDS, *(next(seeds_of(wants, SEEDS.stop)) for wants in (interrupts_saves, loses_a_commit))])
    for failure in told.failures[:1]:
        pytest.fail("\n".join([*failure.story, f"seed {failure.seed}: {failure.what}"]))


def test_a_seed_replays() -> None:
    """A seed replays exactly. Guards against a story whose bug nobody can find."""
    for seed in range(20, 30):
        assert story_of(seed).run().digest == story_of(seed).run().digest


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.rule)
def test_a_broken_rule_is_noticed(broken: Broken) -> None:
    """Each broken rule is noticed within a few stories. Guards against a proof that cannot fail."""
    with broken.change():
        for seed in islice(seeds_of(broken.wants), MOST):
            for failure in tell([seed]).failures:
                assert failure.kind in broken.kinds, f"seed {seed}: {failure.what}"
                return
    pytest.fail(f"none of {MOST} stories notices")
