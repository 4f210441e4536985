"""`holdfast pin` and `holdfast unpin`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from click.testing import Result

from holdfast_storage.log.log import Log, Published
from holdfast_storage.records import MOST_PINS, Entry, Lease, LogState, Pin

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


def test_a_pin_is_recorded_and_shown(saved: Any, holdfast: Holdfast, holdfast_json: HoldfastJson) -> None:
    """A pinned checkpoint is shown as such, with its reason. Guards against a pin that nobody remembers."""
    result = holdfast("pin", f"{saved.path}@10", "--reason", "for the paper")
    assert (result.exit_code, result.stdout) == (0, f"{saved.path}@10 is pinned\n")
    assert [pin.reason for pin in saved.last.state.pinned] == ["for the paper"]
    first, second = holdfast_json("ls", saved.path)["checkpoints"]
    assert first["pinned"]["reason"] == "for the paper"
    assert second["pinned"] is None
    assert "pinned: for the paper" in holdfast("ls", saved.path).stdout
    assert holdfast_json("show", f"{saved.path}@10")["pinned"]["reason"] == "for the paper"
    assert "pinned: for the paper" in holdfast("show", f"{saved.path}@10").stdout
    assert holdfast_json("status", saved.path)["log"]["pinned"] == 1
    assert "2 live, 1 pinned" in holdfast("status", saved.path).stdout


def test_pinning_twice_changes_nothing(saved: Any, holdfast: Holdfast) -> None:
    """The same pin twice is one entry, another reason replaces the first. Guards against a log that a script fills."""
    for said in ("is pinned", "is pinned already"):
        assert holdfast("pin", f"{saved.path}@10", "--reason", "a").stdout.strip().endswith(said)
    assert saved.last.number == 1
    assert holdfast("pin", f"{saved.path}@10", "--reason", "b").exit_code == 0
    assert [pin.reason for pin in saved.last.state.pinned] == ["b"]


def test_unpinning_takes_it_back(saved: Any, holdfast: Holdfast) -> None:
    """After `unpin` the state is as before `pin`. Guards against a checkpoint that can never be removed again."""
    before = saved.last.state
    holdfast("pin", f"{saved.path}@10")
    for said in ("is not pinned any more", "is not pinned"):
        assert holdfast("unpin", f"{saved.path}@10").stdout.strip().endswith(said)
    assert saved.last.state == before
    assert [saved.last.number, saved.last.kind] == [2, "unpin"]


def test_all_pins_of_a_step_are_taken_back(saved: Any, holdfast: Holdfast) -> None:
    """A step that was saved again after it was pinned can be unpinned. Guards against a pin that no command reaches."""
    holdfast("pin", f"{saved.path}@10")
    last = saved.last
    entry = Entry(2, "commit", "leader.2", 0.0, last.state.commit(saved.save(10, 3)))
    assert Log(saved.store).publish(entry, 5.0) == Published()
    assert holdfast("unpin", f"{saved.path}@10").exit_code == 0
    assert saved.last.state.pinned == ()


def test_leases_are_shown(saved: Any, holdfast: Holdfast, holdfast_json: HoldfastJson) -> None:
    """Who reads a checkpoint is shown. Guards against a checkpoint that stays, and nobody knows why."""
    last = saved.last
    prefix = last.state.checkpoints[0].prefix
    leases = (Lease(prefix, "a", 60.0, 1), Lease(prefix, "b", 60.0, 1))
    entry = Entry(1, "lease", "reader", 0.0, replace(last.state, leases=leases))
    assert Log(saved.store).publish(entry, 5.0) == Published()
    assert [c["leases"] for c in holdfast_json("ls", saved.path)["checkpoints"]] == [2, 0]
    assert "leased by 2 readers" in holdfast("ls", saved.path).stdout
    assert "leased by 2 readers" in holdfast("show", f"{saved.path}@10").stdout
    assert "1 leased" in holdfast("status", saved.path).stdout


def test_mistakes_are_told_in_a_sentence(saved: Any, holdfast: Holdfast, tmp_path: Any) -> None:
    """A mistake is one sentence with status 2, and no entry is made. Guards against a traceback, and a pin that nobody
    reads."""
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock" / "ckpt-7.index").touch()
    (tmp_path / "stock" / "checkpoint").write_text('model_checkpoint_path: "ckpt-7"\n')
    for arguments, told in (
        (["pin", saved.path], "names no checkpoint"),
        (["unpin", saved.path], "names no checkpoint"),
        (["pin", f"{saved.path}@30"], "there is no checkpoint of step 30"),
        (["pin", f"{saved.path}@10", "--reason", "a\nb"], "one line"),
        (["pin", f"{saved.path}@10", "--reason", "a" * 257], "256"),
        (["pin", f"{tmp_path}/nowhere@10"], "does not exist"),
        (["pin", f"{tmp_path}/stock@7"], "no log of Holdfast's"),
    ):
        result = holdfast(*arguments)
        assert (result.exit_code, told in result.stderr, result.stderr.count("\n")) == (2, True, 1), result.output
    assert saved.last.number == 0


def test_there_is_a_most(saved: Any, holdfast: Holdfast) -> None:
    """No more can be pinned than an entry may hold. Guards against an entry that closes the run."""
    records = [replace(saved.save(n, n), time=0.0) for n in (100, 101)]
    many = [replace(records[0], prefix=f"c-{n}.0a1b2c3d.{n}/c-{n}", step=n) for n in range(MOST_PINS)]
    pins = tuple(Pin(record.prefix, 0.0, "") for record in many)
    state = LogState("run-id", checkpoints=(*many, *records), pinned=pins)
    assert Log(saved.store).publish(Entry(1, "pin", "somebody", 0.0, state), 5.0) == Published()
    result = holdfast("pin", f"{saved.path}@{100}")
    assert result.exit_code == 2
    assert "unpin some" in result.stderr
    assert saved.last.number == 1
