"""TensorFlow's own state file, `checkpoint`, which tells stock readers which checkpoints a directory holds.

It is `CheckpointState` (tensorflow/python/training/checkpoint_state.proto) in text format. It is written and read here
without protobuf's text parser, since it has only five scalar fields, and a damaged file must still tell what it can.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from holdfast_storage.kinds import LATEST
from holdfast_storage.layout import LARGEST_STEP, STATE_FILE, check_stock_prefix, index_object, parse_folder
from holdfast_storage.log.log import Log
from holdfast_storage.records import CheckpointRecord, Entry, LogState
from holdfast_storage.store.base import Store

_FIELD = re.compile(
    rb"""^[ \t]*(\w+)[ \t]*:[ \t]*(?:"((?:[^"\\]|\\.){0,16384})"|'((?:[^'\\]|\\.){0,16384})'|([-+.\w]+))""",
    re.MULTILINE,
)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)", re.DOTALL)
_NUMBER = re.compile(r"-([0-9]+)$")
_SIMPLE_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


NAMED = 1_000
"""The largest number of checkpoints that the file names."""


LARGEST = 16 << 20
"""The most bytes of the file: TensorFlow's names all checkpoints that are kept, in 100 bytes each."""


@dataclass(frozen=True, slots=True)
class StateFile:
    """The contents of a `checkpoint` file."""

    newest: str = ""
    paths: tuple[str, ...] = ()  # as the file has them, oldest first
    times: tuple[float, ...] = ()  # of the paths; `tf.train.CheckpointManager` gives them, other writers do not

    @property
    def is_of_manager(self) -> bool:
        """Whether a manager wrote the file, TensorFlow's or ours, and not `tf.train.Checkpoint.save`."""
        return len(self.times) == len(self.paths) > 0

    @property
    def listed(self) -> list[tuple[str, float]]:
        """Paths and their times, the newest last. The file's order counts: there may have been a rollback."""
        times = dict(zip(self.paths, self.times if self.is_of_manager else [0.0] * len(self.paths), strict=True))
        if self.newest:
            times[self.newest] = times.pop(self.newest, max(self.times, default=0.0))
        return list(times.items())


def to_bytes(state: LogState) -> bytes:
    """Encode the file for a state of a run, to be stored as `layout.STATE_FILE`. Empty if there is nothing to name.

    An empty file must not be stored, since `tf.train.latest_checkpoint` raises ValueError for it. Paths are relative,
    so that a copied folder is complete, and oldest first. Deltas, which TensorFlow cannot read, are left out, and
    checkpoints known to be damaged as well, unless all are: a file that names nothing looks like a run that has
    nothing. Only the newest `NAMED` are named, since the file is written at every commit.
    """
    records = (state.stock_readable or tuple(c for c in state.checkpoints if not c.base))[-NAMED:]
    if not records:
        return b""
    lines = [b"model_checkpoint_path: %s" % _quoted(records[-1].prefix)]
    lines += [b"all_model_checkpoint_paths: %s" % _quoted(record.prefix) for record in records]
    lines += [b"all_model_checkpoint_timestamps: %s" % repr(float(record.time)).encode() for record in records]
    if state.last_preserved is not None:
        lines.append(b"last_preserved_timestamp: %s" % repr(float(state.last_preserved)).encode())
    return b"".join(line + b"\n" for line in lines)


def write_current(
    store: Store, log: Log, number: int, state: LogState, following: Entry | None = None
) -> tuple[int, LogState]:
    """Write the file for the state after an entry or, if others follow, for that after the last one. Return which.

    Whoever adds an entry meanwhile may write the file before us: it must have the newest state in the end. following:
    the next entry, if it is there already. What is damaged by the given state stays so.
    """
    damaged = state.damaged
    while True:
        if following is not None:
            entry = log.tail(following.number) or following
            number, state = entry.number, entry.state.condemn(damaged)
        if named := to_bytes(state):
            store.replace(STATE_FILE, named)
        following = log.read(number + 1)
        if following is None:
            return number, state


def read(store: Store) -> StateFile:
    """Read the directory's file as far as it can be understood. It counts as empty if it is missing.

    Raises StorageError if it cannot be read, or is too large to be one.
    """
    try:
        return _parse(store.read(STATE_FILE, limit=LARGEST))
    except FileNotFoundError:
        return StateFile()


def listed_prefixes(store: Store) -> list[str]:
    """Return the prefixes that the directory's file lists, oldest first, whether or not they exist."""
    prefixes = []
    for path, _ in read(store).listed:
        folder, _, name = path.rpartition("/")
        ours = f"{folder.rpartition('/')[2]}/{name}"
        prefix = ours if parse_folder(ours.partition("/")[0]) else stock_prefix(store, path)
        if prefix is not None:
            prefixes.append(prefix)
    return list(dict.fromkeys(reversed(prefixes)))[::-1]


def stock_checkpoints(store: Store) -> tuple[CheckpointRecord, ...]:
    """Return the checkpoints that TensorFlow itself wrote into a directory, oldest first, if their index exists.

    These are the ones that the state file lists. If it is lost, or lists none that exists, they are those whose index
    is in the directory, in order of their number. Their data is not checked. Raises StorageError if the store does.
    """
    names = {name for name in store.list() if not name.endswith("/")}
    times: dict[str, float] = {}
    for path, time in read(store).listed if STATE_FILE in names else ():
        prefix = stock_prefix(store, path)
        if prefix is not None and _is_there(store, prefix, names):
            times.pop(prefix, None)
            times[prefix] = max(time, *times.values(), 0.0)  # they never decrease: the order of the file counts
    if not times:
        files = (name.removesuffix(".index") for name in names if name.endswith(".index"))
        prefixes = [name for name in files if stock_prefix(store, name) is not None]
        times = dict.fromkeys(sorted(prefixes, key=lambda prefix: (_number(prefix), prefix)), 0.0)
    return tuple(stock_record(prefix, time) for prefix, time in times.items())


def stock_record(prefix: str, time: float) -> CheckpointRecord:
    """Return the record of a checkpoint that TensorFlow wrote. Its step is the number at the end of its name, or 0."""
    return CheckpointRecord(prefix=prefix, step=min(max(0, _number(prefix)), LARGEST_STEP), time=time, stock=True)


def stock_prefix(store: Store, path: str) -> str | None:
    """Return a listed path relative to the directory, or None if it cannot be a stock checkpoint in it.

    Absolute paths date from when the file was written: the folder may have been moved, or be reached by another name.
    """
    if path.startswith(f"{store.url}/"):
        path = path.removeprefix(f"{store.url}/")
    elif path.startswith("/"):
        path = path.rpartition("/")[2]
    try:
        return check_stock_prefix(path)
    except ValueError:
        return None


def _is_there(store: Store, prefix: str, names: set[str]) -> bool:
    name = index_object(prefix)
    return store.size(name) is not None if "/" in prefix else name in names


def _parse(data: bytes) -> StateFile:
    """Decode the file as far as it can be understood."""
    newest, paths, stamps = "", [], []
    for match in _FIELD.finditer(data):
        name = match[1]
        text = next((group for group in match.groups()[1:] if group is not None), b"")
        if name == b"model_checkpoint_path":
            newest = _unquoted(text)
        elif name == b"all_model_checkpoint_paths":
            paths.append(_unquoted(text))
        elif name == b"all_model_checkpoint_timestamps":
            try:
                stamp = float(text)
            except ValueError:
                stamp = 0.0
            stamps.append(stamp if 0.0 <= stamp <= LATEST else 0.0)  # the log can hold no other
    return StateFile(newest, tuple(paths), tuple(stamps))


@lru_cache(2 * NAMED)
def _quoted(text: str) -> bytes:
    escaped = b"".join(
        bytes([byte]) if 0x20 <= byte < 0x7F and byte not in b"\"\\'" else b"\\%03o" % byte
        for byte in text.encode("utf-8", "surrogateescape")
    )
    return b'"%s"' % escaped


def _unquoted(text: bytes) -> str:
    def plain(match: re.Match[bytes]) -> bytes:
        code: bytes = match[1]
        if code[:1] in b"01234567":
            return bytes([int(code, 8) & 0xFF])
        if code[:1] == b"x" and len(code) > 1:
            return bytes([int(code[1:], 16)])
        return _SIMPLE_ESCAPES.get(code, code)

    return _ESCAPE.sub(plain, text).decode("utf-8", "surrogateescape")


def _number(prefix: str) -> int:
    """Return the number at the end of a prefix, or -1."""
    match = _NUMBER.search(prefix)
    return int(match[1]) if match else -1
