"""`holdfast tag` and `holdfast untag`, and tags in the place of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from click.testing import Result

from holdfast.cli.target import parse_target
from holdfast_storage.log.log import Log, Published
from holdfast_storage.records import MOST_TAGS, Entry, LogState, Tag

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


def _put(run: Any, change: Callable[[LogState], LogState], kind: Any = "damaged") -> None:
    last = run.last
    assert (
        Log(run.store).publish(Entry(last.number + 1, kind, f"somebody.{last.number}", 0.0, change(last.state)), 5.0)
        == Published()
    )


def test_a_tag_is_recorded_and_shown(saved: Any, holdfast: Holdfast, holdfast_json: HoldfastJson) -> None:
    """A tag is shown wherever a checkpoint is. Guards against a checkpoint that stays, and nobody knows why."""
    result = holdfast("tag", f"{saved.path}@10", "production")
    assert (result.exit_code, result.stdout) == (0, f"{saved.path}@10 is tagged production\n")
    assert holdfast("tag", f"{saved.path}@10", "best.v2").exit_code == 0
    assert [c["tags"] for c in holdfast_json("ls", saved.path)["checkpoints"]] == [["best.v2", "production"], []]
    assert holdfast_json("show", f"{saved.path}@10")["tags"] == ["best.v2", "production"]
    for command in (["ls", saved.path], ["show", f"{saved.path}@production"]):
        assert "tagged best.v2, production" in holdfast(*command).stdout
    assert "1 tagged" in holdfast("status", saved.path).stdout


def test_a_tag_stands_for_a_step(saved: Any, holdfast: Holdfast, holdfast_json: HoldfastJson) -> None:
    """RUN@TAG is its checkpoint, not the newest, nor a later one of the same step. Guards against another one
    served."""
    holdfast("tag", f"{saved.path}@10", "production")
    prefix = saved.last.state.checkpoints[0].prefix
    _put(saved, lambda state: state.commit(saved.save(10, 3)), "commit")
    assert holdfast_json("show", f"{saved.path}@production")["prefix"] == prefix
    assert holdfast_json("show", f"{saved.path}@10")["prefix"] != prefix
    assert holdfast("verify", f"{saved.path}@production").exit_code == 0
    assert holdfast("pin", f"{saved.path}@production").exit_code == 0
    assert [pin.prefix for pin in saved.last.state.pinned] == [prefix]


def test_a_tag_moves_in_one_entry(saved: Any, holdfast: Holdfast) -> None:
    """Tagging again moves the name by one entry, also to what another tag names; the same again adds none. Guards
    against a moment in which nothing is in production."""
    holdfast("tag", f"{saved.path}@10", "production")
    holdfast("tag", f"{saved.path}@20", "candidate")
    before = saved.last
    assert holdfast("tag", f"{saved.path}@candidate", "production").exit_code == 0
    after = saved.last
    assert (after.number, after.kind, after.note) == (before.number + 1, "tag", "production")
    assert {tag.name: tag.prefix for tag in after.state.tags} == dict.fromkeys(
        ("candidate", "production"), after.state.checkpoints[1].prefix
    )
    assert "already" in holdfast("tag", f"{saved.path}@20", "production").stdout
    assert saved.last == after


def test_untagging_takes_it_back(saved: Any, holdfast: Holdfast) -> None:
    """After `untag` the state is as before `tag`, and RUN@TAG is refused. Guards against a checkpoint that can never be
    removed again."""
    before = saved.last.state
    holdfast("tag", f"{saved.path}@10", "production")
    assert holdfast("untag", f"{saved.path}@production").exit_code == 0
    assert (saved.last.state, saved.last.kind) == (before, "untag")
    for command in ("untag", "show"):
        result = holdfast(command, f"{saved.path}@production")
        assert (result.exit_code, result.stderr.strip()) == (
            2,
            f"holdfast: no checkpoint in {saved.path} is tagged production; there are: no tags",
        )


@pytest.mark.parametrize("first", ["10", "20"])
def test_two_who_tag_at_once(saved: Any, holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """One of two who give the same name is last, and the name is given once; the tags of others stay. Guards against an
    entry that builds on what was read before the other's."""
    publish, meanwhile = Log.publish, iter([first])

    def late(log: Log, entry: Entry, seconds: float) -> Any:
        for step in meanwhile:
            assert holdfast("tag", f"{saved.path}@{step}", "production").exit_code == 0
            assert holdfast("tag", f"{saved.path}@{step}", "other").exit_code == 0
        return publish(log, entry, seconds)

    monkeypatch.setattr(Log, "publish", late)
    assert holdfast("tag", f"{saved.path}@20", "production").exit_code == 0
    state = saved.last.state
    steps = {tag.name: record.step for tag in state.tags if (record := state.find(tag.prefix))}
    assert steps == {"production": 20, "other": int(first)}
    assert len(state.tags) == 2


def test_a_tagged_one_is_not_removed(saved: Any, holdfast: Holdfast) -> None:
    """`rm` refuses a tagged checkpoint, by its step and by its tag, and says its tags. Guards against a served step
    that somebody deletes."""
    holdfast("tag", f"{saved.path}@10", "production")
    for step in ("10", "production"):
        result = holdfast("rm", f"{saved.path}@{step}")
        assert (result.exit_code, "is tagged production: move the tag" in result.stderr) == (2, True)
    assert holdfast("verify", f"{saved.path}@10").exit_code == 0


def test_tags_move_with_the_run(saved: Any, holdfast: Holdfast, tmp_path: Any) -> None:
    """`mv` brings the tags along. Guards against a run that is served from no step after it has moved."""
    holdfast("tag", f"{saved.path}@10", "production")
    tags = saved.last.state.tags
    assert holdfast("mv", saved.path, f"{tmp_path}/new").exit_code == 0
    assert "tagged production" in holdfast("show", f"{tmp_path}/new@production").stdout
    assert "was moved to" in holdfast("tag", f"{saved.path}@10", "x").stderr
    assert tags


@pytest.mark.parametrize(
    "name",
    ["", "1000", "-x", ".x", "a b", "a/b", "../x", "a@b", "a\n", "a\x1b[2J", "\u0430", "a" * 65, "caf\u00e9", "\udc80"],
)
def test_evil_names_are_refused(saved: Any, holdfast: Holdfast, name: str) -> None:
    """What is no word is no tag, and adds nothing; it is shown harmlessly. Guards against names that look like a step
    or a path, that end a line, or that two people read differently."""
    before = saved.last
    result = holdfast("tag", "--", f"{saved.path}@10", name)
    assert (result.exit_code, "is no tag" in result.stderr) == (2, True)
    assert result.stderr.rstrip("\n").isprintable()
    assert saved.last == before


def test_mistakes_are_told_in_a_sentence(saved: Any, holdfast: Holdfast, tmp_path: Any) -> None:
    """A mistake is one sentence with status 2, and no entry is made. Guards against a traceback, and a tag of what
    nobody can restore."""
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock" / "ckpt-7.index").touch()
    (tmp_path / "stock" / "checkpoint").write_text('model_checkpoint_path: "ckpt-7"\n')
    prefix = saved.last.state.checkpoints[1].prefix
    _put(saved, lambda state: state.condemn([prefix]))
    before = saved.last
    for arguments, told in (
        (["tag", saved.path, "x"], "names no checkpoint"),
        (["untag", saved.path], "names no checkpoint"),
        (["untag", f"{saved.path}@10"], "names a step"),
        (["tag", f"{saved.path}@30", "x"], "there is no checkpoint of step 30"),
        (["tag", f"{saved.path}@20", "x"], "marked as damaged"),
        (["tag", f"{tmp_path}/stock@7", "x"], "no log of Holdfast's"),
    ):
        result = holdfast(*arguments)
        assert (result.exit_code, result.stderr.count("\n"), told in result.stderr) == (2, 1, True), result.stderr
    assert saved.last == before
    tags = tuple(Tag(f"t{number}", before.state.checkpoints[0].prefix, 0.0) for number in range(MOST_TAGS))
    _put(saved, lambda state: replace(state, tags=tags), "tag")
    assert "which is the most" in holdfast("tag", f"{saved.path}@10", "one-more").stderr
    assert holdfast("untag", f"{saved.path}@t7").exit_code == 0


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("runs/a@production", ("runs/a", "production")),
        ("a@v2.1", ("a", "v2.1")),
        ("s3://bucket/a@production", ("s3://bucket/a", "production")),
        ("s3://bucket/@production", ("s3://bucket/", "production")),
        ("abfs://container@account.dfs.core.windows.net", ("abfs://container@account.dfs.core.windows.net", None)),
        ("abfs://container@account/a@100", ("abfs://container@account/a", 100)),
        ("sftp://user@host/a", ("sftp://user@host/a", None)),
        ("sftp://user@host/a@production", ("sftp://user@host/a", "production")),
        ("runs/a@production/", ("runs/a@production/", None)),
        ("runs/me@host/a", ("runs/me@host/a", None)),
        ("runs/a@-x", ("runs/a@-x", None)),
        ("@production", ("@production", None)),
    ],
)
def test_what_is_a_tag(text: str, meant: tuple[str, int | str | None]) -> None:
    """The last word after @ is a tag, unless it is part of a path or of a URL's host. Guards against a run that cannot
    be named, and one host's run taken for another's."""
    assert parse_target(text) == meant
