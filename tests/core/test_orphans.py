"""What a save that never came to its commit left behind: removed by the next generation that leads, never earlier."""

from __future__ import annotations

from dataclasses import replace

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import messages as v
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.records import LogState
from support.cluster import Cluster, Coordinator, Worker, checkpoint


def begin(coordinator: Coordinator, workers: list[Worker], ordinal: int) -> None:
    """The workers are told to go, and write."""
    for worker in workers:
        coordinator.call(worker.vote(ordinal))
    coordinator.run()


def folder(worker: Worker, ordinal: int) -> str:
    return f"ckpt-{10 * ordinal}.{worker.caller.generation}.{ordinal}"


def test_it_is_there_until_another_generation_leads() -> None:
    """An orphan stays until another generation leads. Guards against a disk full of failed saves, and deleting a save
    that a restarted coordinator will finish."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    cluster.save(coordinator, workers, 1)
    begin(coordinator, workers, 2)
    coordinator.ask(workers[0].give_up(2))
    cluster.save(coordinator, workers, 3)
    begin(coordinator, workers, 4)
    coordinator.alive = False
    restarted = cluster.coordinator()
    for worker in workers:
        restarted.ask(worker.rejoin())
    cluster.save(restarted, workers, 4)
    begin(restarted, workers, 5)
    assert {folder(workers[0], ordinal) for ordinal in range(1, 6)} == cluster.storage.folders
    restarted.alive = False

    entries = len(cluster.storage.entries)
    coordinator = cluster.coordinator()
    second = cluster.world(coordinator, 2)
    cluster.restore(coordinator, second)
    assert {folder(workers[0], ordinal) for ordinal in range(1, 6)} == cluster.storage.folders, (
        "looking removes nothing"
    )
    cluster.save(coordinator, second, 1)
    assert cluster.storage.kinds[entries:] == ["lead", "retire", "commit"]
    retire = cluster.storage.entries[entries + 1]
    assert set(retire.state.retired) == {folder(workers[0], ordinal) for ordinal in (2, 5)}
    assert retire.note == f"never committed: {', '.join(retire.state.retired)}"
    assert {folder(workers[0], 1), folder(workers[0], 3), folder(workers[0], 4)} < cluster.storage.folders
    assert len(cluster.storage.folders) == 4
    assert cluster.storage.state.retired == (), "deleted, and forgotten with the commit"


def test_the_entry_comes_first() -> None:
    """The entry comes before the deletion. Guards against a folder that is deleted while its generation can still
    commit it."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 1)
    cluster.save(coordinator, workers, 1)
    begin(coordinator, workers, 2)
    other = cluster.coordinator()
    second = cluster.world(other, 1)
    second[0].terms = {"takeover": True}
    other.call(second[0].vote(1))
    seen: list[str] = []
    while other.pending:
        effect = other.pending[0]
        seen.append(effect.entry.kind if isinstance(effect, fx.Append) else type(effect).__name__)
        other.carry_out()
        other.deliver()
    first = [seen.index(each) for each in ("lead", "FindOrphans", "retire", "DeleteFolder")]
    assert first == sorted(first)
    assert "lead" not in seen[first[1] :]


def test_nothing_is_looked_for_where_nobody_led_before() -> None:
    """Where nobody has led before, nothing is looked for. Guards against a first job that removes what it does not
    know."""
    cluster = Cluster(LogState("run", checkpoints=(checkpoint(1), checkpoint(2, stock=True))))
    cluster.storage.folders |= {"ckpt-9.0000000a.9", checkpoint(1).folder}
    before = set(cluster.storage.folders)
    for job in (1, 2):
        coordinator = cluster.coordinator()
        workers = cluster.world(coordinator, 1)
        cluster.restore(coordinator, workers)
        coordinator.call(workers[0].vote(1))
        looked = False
        while coordinator.pending:
            looked |= isinstance(coordinator.pending[0], fx.FindOrphans)
            coordinator.carry_out()
            coordinator.deliver()
        assert looked == (job == 2)
        coordinator.alive = False
    assert before < cluster.storage.folders


def test_a_listing_that_fails_costs_the_clean_up_alone() -> None:
    """A failed listing costs only the clean-up. Guards against a save that fails because of it, and a clean-up that
    never comes."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 1)
    begin(coordinator, workers, 1)
    coordinator.alive = False
    left = folder(workers[0], 1)
    for fate in ("bad", "good"):
        coordinator = cluster.coordinator()
        workers = cluster.world(coordinator, 1)
        cluster.restore(coordinator, workers)
        calls = [coordinator.call(worker.vote(1)) for worker in workers]
        coordinator.run({fx.FindOrphans: fate})  # type: ignore[dict-item]
        assert isinstance(calls[0].answer, v.Go)
        coordinator.call(workers[0].report(1))
        coordinator.run()
        assert cluster.storage.kinds[-1] == "commit"
        assert (left in cluster.storage.folders) == (fate == "bad")
        coordinator.alive = False


def test_a_folder_that_comes_back_is_removed_again() -> None:
    """A folder that comes back is removed again. Guards against a worker that wakes up and writes to its old folder."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    zombies = cluster.world(coordinator, 1)
    begin(coordinator, zombies, 1)
    coordinator.alive = False
    for _ in range(3):
        coordinator = cluster.coordinator()
        workers = cluster.world(coordinator, 1)
        cluster.restore(coordinator, workers)
        cluster.save(coordinator, workers, 1)
        assert folder(zombies[0], 1) not in cluster.storage.folders
        cluster.storage.folders.add(folder(zombies[0], 1))
        coordinator.alive = False


def test_who_looked_and_was_replaced_removes_nothing() -> None:
    """A coordinator that was replaced after its search removes nothing. Guards against deleting in a run that belongs
    to another by now."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 1)
    begin(coordinator, workers, 1)
    coordinator.alive = False
    sleeper = cluster.coordinator("")
    second = cluster.world(sleeper, 1)
    sleeper.call(second[0].vote(1))
    while not any(isinstance(effect, fx.FindOrphans) for effect in sleeper.pending):
        sleeper.carry_out()
        sleeper.deliver()
    while sleeper.pending:
        sleeper.carry_out()
    newest = cluster.coordinator()
    third = cluster.world(newest, 1)
    cluster.restore(newest, third)
    cluster.save(newest, third, 1)
    entries = list(cluster.storage.entries)
    folders = set(cluster.storage.folders)
    while sleeper.results or sleeper.pending:
        if sleeper.results:
            sleeper.deliver()
        else:
            sleeper.carry_out()
    assert cluster.storage.entries == entries
    assert cluster.storage.folders == folders
    cluster.check()


def test_a_generation_that_lost_the_lead_never_leads_again() -> None:
    """A generation that lost the lead never leads again. Guards against committing a folder that was or will be
    deleted."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 1)
    cluster.save(coordinator, workers, 1)
    elsewhere = cluster.coordinator()
    second = cluster.world(elsewhere, 1)
    second[0].terms = {"takeover": True}
    cluster.save(elsewhere, second, 1)
    coordinator.alive = False
    # Its workers restore what is the newest now, so that nothing has happened since; with another coordinator.
    restarted = cluster.coordinator()
    assert workers[0].world is not None
    workers[0].world = replace(workers[0].world, fork_point=cluster.storage.state.fork_point)
    refusal = restarted.ask(workers[0].rejoin())
    assert isinstance(refusal, Failure)
    assert refusal.kind == Kind.SUPERSEDED


def test_a_generation_that_lost_the_lead_without_hearing_of_it() -> None:
    """A generation that lost the lead unnoticed never leads again. Guards against the same through a coordinator to
    which its workers come back, with takeover."""
    cluster = Cluster()
    asleep = cluster.coordinator()
    workers = cluster.world(asleep, 1)
    awake = cluster.coordinator()
    awake.ask(workers[0].rejoin())
    cluster.save(awake, workers, 1)
    other = cluster.coordinator()
    second = cluster.world(other, 1)
    second[0].terms = {"takeover": True}
    cluster.save(other, second, 1)
    workers[0].terms = {"takeover": True}
    outcome = cluster.save(asleep, workers, 2)
    assert outcome.failure is not None
    assert outcome.failure.kind == Kind.SUPERSEDED
    refused = asleep.ask(workers[0].vote(3))
    assert isinstance(refused, Failure)
    assert refused.kind == Kind.SUPERSEDED
    assert cluster.storage.state.generation == other.machine.worlds[second[0].caller.generation].generation
