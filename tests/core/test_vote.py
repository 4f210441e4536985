"""Whether a save may be written: the workers' ballots, compared."""

from __future__ import annotations

import struct
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from holdfast_coordinator.core.messages import Ballot, Divergence, Go, TensorSpec
from holdfast_coordinator.core.vote import EXAMINED, NeedSpecs, judge
from holdfast_storage.cluster import Task
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure

CHIEF, ONE, TWO = (Task("worker", i) for i in range(3))
GUARDED = b"\1\1\0"


def ballot(*crcs: int, guarded: bytes = GUARDED, **changes: object) -> Ballot:
    base = Ballot(
        step=10,
        checkpoint_name="ckpt",
        spec_digest=b"specs",
        crcs=struct.pack(f"<{len(crcs)}I", *crcs),
        guarded=guarded,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def failure(verdict: object) -> Failure:
    assert isinstance(verdict, Failure)
    return verdict


def test_equal_workers_go() -> None:
    """Equal workers get a Go. Guards against a vote that stops what is right."""
    assert judge({CHIEF: ballot(1, 2, 3), ONE: ballot(1, 2, 3)}) == Go()
    assert judge({CHIEF: ballot(1, 2, 3)}) == Go()
    assert judge({CHIEF: ballot(guarded=b""), ONE: ballot(guarded=b"")}) == Go()


def test_workers_at_different_steps_are_refused() -> None:
    """Workers at different steps are refused. Guards against half a checkpoint from step 10 and half from step 20."""
    verdict = failure(judge({CHIEF: ballot(1, 2, 3), ONE: ballot(1, 2, 3), TWO: ballot(1, 2, 3, step=20)}))
    assert verdict.kind == Kind.INVALID_REQUEST
    assert verdict.tasks == (CHIEF, TWO)
    assert "ckpt-10" in verdict.message
    assert "ckpt-20" in verdict.message


def test_who_is_ahead_is_told() -> None:
    """Workers that are ahead are told. Guards against an interrupted save call after which no save is ever committed
    again."""
    verdict = failure(judge({CHIEF: ballot(1, step=30), ONE: ballot(1, step=20), TWO: ballot(1, step=30)}))
    assert verdict.ahead == (CHIEF, TWO)
    assert not failure(judge({CHIEF: ballot(1), ONE: ballot(1, checkpoint_name="model")})).ahead


def test_workers_with_different_names_are_refused() -> None:
    """Workers with different checkpoint names are refused. Guards against two parts of one checkpoint in two
    folders."""
    verdict = failure(judge({CHIEF: ballot(1, 2, 3), ONE: ballot(1, 2, 3, checkpoint_name="model")}))
    assert verdict.tasks == (CHIEF, ONE)


def test_what_differs_and_is_not_guarded_is_local() -> None:
    """A tensor that differs and is not guarded is worker-local. Guards against taking BatchNorm's moving statistics
    under Keras 3 for corruption."""
    assert judge({CHIEF: ballot(1, 2, 3), ONE: ballot(1, 2, 4), TWO: ballot(1, 2, 5)}) == Go(worker_local=(2,))


def test_silent_corruption_is_named() -> None:
    """A guarded tensor that differs is refused, with tensor and worker. Guards against a wrong weight in the
    checkpoint, and not knowing whose it is."""
    verdict = failure(judge({CHIEF: ballot(1, 2, 3), ONE: ballot(1, 9, 3), TWO: ballot(1, 2, 4)}))
    assert (verdict.kind, verdict.positions, verdict.tasks) == (Kind.REPLICA_DIVERGENCE, (1,), (ONE,))


def test_the_chief_can_be_the_one_that_is_wrong() -> None:
    """The chief can be the one that is wrong. Guards against blaming the majority because the chief counts as right."""
    verdict = failure(judge({CHIEF: ballot(9, 2, 3), ONE: ballot(1, 2, 3), TWO: ballot(1, 2, 3)}))
    assert verdict.tasks == (CHIEF,)


def test_without_a_majority_all_are_named() -> None:
    """Without a majority all are named. Guards against blaming one of two workers by chance."""
    verdict = failure(judge({CHIEF: ballot(1, 2, 3), ONE: ballot(9, 2, 3)}))
    assert verdict.tasks == (CHIEF, ONE)


def test_each_tensor_has_its_own_suspects() -> None:
    """Each tensor has its own suspects. Guards against missing that two workers are wrong in different variables."""
    verdict = failure(judge({CHIEF: ballot(1, 2, 3), ONE: ballot(9, 2, 3), TWO: ballot(1, 9, 3)}))
    assert (verdict.positions, verdict.tasks) == ((0, 1), (ONE, TWO))


def test_divergence_can_be_a_warning() -> None:
    """Divergence can be a warning. Guards against two generations of CPU, which round differently and can never
    save."""
    verdict = judge(
        {CHIEF: ballot(1, 2, 3, on_divergence="warn"), ONE: ballot(9, 2, 4), TWO: ballot(1, 2, 3)},
    )
    assert verdict == Go(worker_local=(2,), warned=(Divergence(0, (ONE,)),))


def test_all_that_differs_is_counted() -> None:
    """All that differs is counted, and only a part examined. Guards against a coordinator that is held up by a model
    whose every variable differs."""
    many = EXAMINED + 7
    ballots = {task: ballot(*range(n, n + many), guarded=b"\1" * many) for n, task in enumerate((CHIEF, ONE, TWO))}
    verdict = failure(judge(ballots))
    assert verdict.message.startswith(f"{many} variable(s)")
    assert verdict.positions == tuple(range(many))
    assert verdict.tasks == (CHIEF, ONE, TWO)
    warned = judge({task: replace(each, on_divergence="warn") for task, each in ballots.items()})
    assert isinstance(warned, Go)
    assert [divergence.position for divergence in warned.warned] == list(range(many)), "whose value is saved?"
    assert sum(bool(divergence.tasks) for divergence in warned.warned) == EXAMINED


def test_specs_are_asked_for_when_they_differ() -> None:
    """If specs differ, two workers are asked for them. Guards against asking all workers."""
    other = {TWO: ballot(1, 2, 3, spec_digest=b"b"), Task("worker", 3): ballot(1, spec_digest=b"c")}
    assert judge({CHIEF: ballot(1, 2, 3), ONE: ballot(1, 2, 3), **other}) == NeedSpecs((CHIEF, TWO))


def specs(mine: tuple[TensorSpec, ...], theirs: tuple[TensorSpec, ...], tensors: int = 0) -> Failure:
    def each(specs: tuple[TensorSpec, ...]) -> Ballot:
        return ballot(guarded=b"\1" * (tensors or len(specs)), specs=specs)

    return failure(judge({CHIEF: each(mine), ONE: replace(each(theirs), spec_digest=b"b")}))


def test_a_difference_beyond_the_specs_that_were_sent() -> None:
    """A vote has the specs of the first tensors. Guards against a tensor that is called missing because it was not
    sent."""
    a, b, c = (TensorSpec(key, 1, (2, 3)) for key in "abc")
    assert "somewhere after 'b'" in specs((a, b, c), (a, b), tensors=5).message
    assert "'a' of shape" in specs((a, b, c), (replace(a, dtype=14), b), tensors=5).message


def test_the_first_difference_is_named() -> None:
    """The first difference between models is named. Guards against users who must find it themselves."""
    a, b, c = (TensorSpec(key, 1, (2, 3)) for key in "abc")
    verdict = specs((a, b, c), (a, replace(b, shape=(2, 4)), replace(c, dtype=2)))
    assert (verdict.kind, verdict.object, verdict.tasks) == (Kind.INVALID_REQUEST, "b", (CHIEF, ONE))
    assert "[2, 3]" in verdict.message
    assert "[2, 4]" in verdict.message
    halved = specs((a, b), (a, replace(b, dtype=14)))
    assert "'b' of shape [2, 3] (float32) on worker-0 and 'b' of shape [2, 3] (bfloat16) on worker-1" in halved.message
    assert "worker-1 does not have" in specs((a, b), (a,)).message
    assert "worker-0 does not have" in specs((a,), (a, b)).message
    assert "which of them must be equal" in specs((a, b), (a, b)).message


def test_a_ballot_that_cannot_be_compared_is_refused() -> None:
    """A ballot that cannot be compared is refused. Guards against two versions of Holdfast, an exception, and waiting
    for the deadline."""
    for odd in (ballot(1, 2), ballot(1, 2, 3, guarded=b"\1\1"), ballot(1, 2, 3, crcs=b"12345")):
        for ballots in ({CHIEF: ballot(1, 2, 3), ONE: odd}, {CHIEF: odd, ONE: ballot(1, 2, 3)}):
            assert failure(judge(ballots)).kind == Kind.INVALID_REQUEST


@given(
    st.integers(1, 5).flatmap(
        lambda tensors: st.lists(
            st.lists(st.sampled_from([0, 1, 255, 2**32 - 1]), min_size=tensors, max_size=tensors),
            min_size=1,
            max_size=4,
        )
    ),
    st.binary(min_size=5, max_size=5),
)
def test_a_tensor_is_local_just_when_it_differs(values: list[list[int]], flags: bytes) -> None:
    """A tensor is worker-local exactly if it differs. Guards against overlooking a byte of some worker's checksum."""
    guarded = bytes(flag % 2 for flag in flags[: len(values[0])])
    ballots = {Task("worker", i): ballot(*crcs, guarded=guarded) for i, crcs in enumerate(values)}
    differing = [p for p in range(len(values[0])) if len({crcs[p] for crcs in values}) > 1]
    verdict = judge(ballots)
    wrong = tuple(p for p in differing if guarded[p])
    if wrong:
        assert failure(verdict).positions == wrong
    else:
        assert verdict == Go(worker_local=tuple(differing))
