"""Names of everything below a run directory. Pure: the standard library alone, no I/O.

checkpoint                                   TensorFlow's own state file
ckpt-1000.7f3a2c1b.12/                       an attempt: number 1000, generation 7f3a2c1b, its 12th save call
  ckpt-1000.data-00000-of-00008, ckpt-1000.index
  local/worker-2.index, local/worker-2.data-00000-of-00001
  assets/...                                 small files of the same checkpoint
  manifest.json
ckpt-1100.7f3a2c1b.13/                       a delta: what has changed since the checkpoint before it
  ckpt-1100.delta.data-00000-of-00008, ckpt-1100.delta.index     all else as above
_holdfast/log/000000000042.json              the log
_holdfast/pages/<32 hex digits>.json         parts of long lists of checkpoints, for entries to refer to
_holdfast/agreed/7f3a2c1b/3.json             at which boundary generation 7f3a2c1b answers its third request for a save
_holdfast/coordinator.json                   the hint: where an embedded coordinator listens
_holdfast/key                                the run's key, for its members alone
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest

OWN_FOLDER = "_holdfast"
LOG_FOLDER = f"{OWN_FOLDER}/log"
PAGE_FOLDER = f"{OWN_FOLDER}/pages"
PAGE_DIGITS = 32
AGREED_FOLDER = f"{OWN_FOLDER}/agreed"
HINT = f"{OWN_FOLDER}/coordinator.json"
KEY = f"{OWN_FOLDER}/key"
STATE_FILE = "checkpoint"
MANIFEST = "manifest.json"
ASSETS = "assets"
ARCHITECTURE = f"{ASSETS}/architecture.json"
"""The architecture of the Keras models of a checkpoint, in its folder."""

# TensorFlow looks for a checkpoint with a file pattern made of its prefix, in which these have other meanings.
PATTERN_CHARACTERS = "[]*?\\"

OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""TensorFlow's key for the graph of a checkpoint's objects."""

LOCAL_SUFFIX = "/.OWN"
"""The suffix of a worker-local tensor's stock key in its worker's bundle."""

_REPLICA = "/.REPLICA/"
_PIECE = re.compile(r"(?P<key>.+)/\.HOLDFAST_(?P<part>ROWS|VALUES)/(?P<start>0|[1-9][0-9]{0,18})", re.DOTALL)

TAG_NAME = "[A-Za-z][A-Za-z0-9._-]{0,63}"
"""What a tag is called."""

LARGEST_STEP = (1 << 63) - 1
"""The largest number that a message and TensorFlow's counter can hold. A number made of date and time may exceed it."""

LONGEST_NAME = 1024
"""The most bytes of the name of an object, relative to the run directory. Object stores allow no more."""

_FOLDER = re.compile(
    r"(?P<name>[^/]+)-(?P<number>[0-9]{1,19})\.(?P<generation>[0-9a-f]{8})\.(?P<ordinal>[0-9]{1,19})", re.DOTALL
)
_LOG_ENTRY = re.compile(r"([0-9]{12,})\.json")


@dataclass(frozen=True, slots=True)
class Attempt:
    """The parts of the name of an attempt's folder."""

    checkpoint_name: str
    number: int
    generation: str  # 8 hexadecimal digits
    ordinal: int

    @property
    def folder(self) -> str:
        return f"{self.checkpoint_name}-{self.number}.{self.generation}.{self.ordinal}"

    @property
    def prefix(self) -> str:
        return f"{self.folder}/{self.checkpoint_name}-{self.number}"

    def may_build_on(self, prefix: str) -> bool:
        """Return whether this attempt may be a delta on a checkpoint: on an earlier save of its own generation alone.

        So no chain of deltas has a circle, and none reaches beyond the world that has saved it.
        """
        base = parse_prefix(prefix)
        return base is not None and base.generation == self.generation and base.ordinal < self.ordinal


def attempt_folder(checkpoint_name: str, number: int, generation: str, ordinal: int) -> str:
    """Return the folder of one attempt to save, relative to the run directory. No two attempts share one."""
    return Attempt(checkpoint_name, number, generation, ordinal).folder


def prefix(checkpoint_name: str, number: int, generation: str, ordinal: int) -> str:
    """Return the prefix of an attempt's checkpoint, relative to the run directory: the path that TensorFlow uses."""
    return Attempt(checkpoint_name, number, generation, ordinal).prefix


def parse_folder(name: str) -> Attempt | None:
    """Parse a folder's name, with or without a final slash. Returns None if it is not the folder of an attempt."""
    match = _FOLDER.fullmatch(name.removesuffix("/"))
    if match is None or _why_no_name(match["name"]):
        return None
    attempt = Attempt(match["name"], int(match["number"]), match["generation"], int(match["ordinal"]))
    ours = attempt.folder == name.removesuffix("/") and max(attempt.number, attempt.ordinal) <= LARGEST_STEP
    return attempt if ours else None


def parse_prefix(prefix: str) -> Attempt | None:
    """Parse the prefix of a checkpoint of Holdfast's. Returns None if it is none."""
    attempt = parse_folder(prefix.rpartition("/")[0])
    return attempt if attempt is not None and attempt.prefix == prefix else None


def check_attempt_folder(name: str) -> str:
    """Return the name of an attempt's folder; raise ValueError for any other. Nothing else is ever deleted."""
    attempt = parse_folder(name)
    if attempt is None or attempt.folder != name:
        raise ValueError(f"{name[:200]!r} is not the folder of a checkpoint of Holdfast's")
    return name


def check_stock_prefix(prefix: str) -> str:
    """Return a prefix if a checkpoint of TensorFlow's own, below the run directory, can have it; else ValueError."""
    check_relative(prefix)
    first, slash, _ = prefix.partition("/")
    if slash and (first == OWN_FOLDER or parse_folder(first) is not None):
        raise ValueError(f"{prefix!r} is in a folder of Holdfast's")
    return prefix


def data_object(prefix: str, shard: int, num_shards: int) -> str:
    """Return TensorFlow's name for a data file of a checkpoint."""
    return f"{prefix}.data-{shard:05d}-of-{num_shards:05d}"


def is_tag(name: str) -> bool:
    """Return whether a checkpoint can have this name."""
    return re.fullmatch(TAG_NAME, name) is not None


def tag_of(target: str) -> str:
    """Return the tag that a program wants restored, of `@production`; empty if it wants something else."""
    return target[1:] if target.startswith("@") and is_tag(target[1:]) else ""


def index_object(prefix: str) -> str:
    """Return TensorFlow's name for the index of a checkpoint."""
    return f"{prefix}.index"


def delta_prefix(prefix: str) -> str:
    """Return the prefix of the bundle of a delta, by that of its checkpoint. TensorFlow takes it for no checkpoint."""
    return f"{prefix}.delta"


def manifest_object(folder: str) -> str:
    """Return the name of the manifest in a checkpoint's folder."""
    return f"{folder}/{MANIFEST}"


def local_prefix(folder: str, task: Task) -> str:
    """Return the prefix of one worker's own bundle, a stock checkpoint within the folder of the common one."""
    return f"{folder}/local/{task}"


def log_entry(number: int) -> str:
    """Return the name of a log entry's object."""
    return f"{LOG_FOLDER}/{number:012d}.json"


def parse_log_entry(name: str) -> int | None:
    """Parse a name in `LOG_FOLDER`. Returns None if it is not a log entry."""
    match = _LOG_ENTRY.fullmatch(name)
    if match is None:
        return None
    number = int(match[1])
    return number if f"{LOG_FOLDER}/{name}" == log_entry(number) else None


def page_object(page: str) -> str:
    """Return the name of a page's object."""
    return f"{PAGE_FOLDER}/{page}.json"


def agreed_folder(generation: str) -> str:
    """Return the folder of a generation's decisions."""
    return f"{AGREED_FOLDER}/{generation}"


def decision_object(generation: str, number: int) -> str:
    """Return the name of the decision on one request of a generation."""
    return f"{agreed_folder(generation)}/{number}.json"


def check_checkpoint_name(name: str) -> str:
    """Return the name if every storage allows it for checkpoints; raise InvalidRequest otherwise."""
    if why := _why_no_name(name):
        raise InvalidRequest(f"checkpoint_name {name!r} cannot be used: {why}", object=name)
    return name


@lru_cache(64)  # of a run's many checkpoints all have the same
def _why_no_name(name: str) -> str:
    """Say why checkpoints cannot have a name; empty if they can."""
    if not name:
        return "it is empty"
    if "/" in name:
        return "it names a folder: put that into the directory"
    if found := sorted(set(name) & set(PATTERN_CHARACTERS)):
        return f"TensorFlow would not find checkpoints with {' '.join(found)} in their name"
    if not name.isprintable() or name.startswith("."):
        return "it starts with a dot or holds characters that cannot be printed"
    if len(name.encode()) > 128:
        return "it is longer than 128 bytes"
    return ""


def check_relative(name: str) -> str:
    """Return the name of an object or folder if it is below the run directory; raise ValueError otherwise."""
    if not name or any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        raise ValueError(f"{name[:200]!r} is not a relative path below the run directory")
    if len(name) > LONGEST_NAME or len(name.encode("utf-8", "surrogateescape")) > LONGEST_NAME:
        raise ValueError(f"{name[:200]!r} is longer than {LONGEST_NAME} bytes")
    return name


def replica_key(key: str, index: int) -> str:
    """Return the key of one local value of a distributed variable in its worker's bundle."""
    return f"{key}{_REPLICA}{index}"


def replicated_key(key: str) -> str:
    """Return the key of the variable of which `key` names a local value; empty if it names none."""
    return key.rpartition(_REPLICA)[0]


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of whole rows of a tensor, of which a delta has those that have changed."""

    key: str  # the tensor's stock key
    start: int  # its first row

    @property
    def rows(self) -> str:
        """The key of the numbers of the rows that have changed: int64, ascending, counted from the tensor's first."""
        return f"{self.key}/.HOLDFAST_ROWS/{self.start}"

    @property
    def values(self) -> str:
        """The key of the values of these rows."""
        return f"{self.key}/.HOLDFAST_VALUES/{self.start}"


def parse_piece(key: str) -> Piece | None:
    """Return the piece of which a key of a delta's bundle names rows or values; None if it names a whole tensor."""
    match = _PIECE.fullmatch(key)
    return Piece(match["key"], int(match["start"])) if match else None
