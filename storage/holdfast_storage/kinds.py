"""What is right for each kind of field, wherever it stands in a run directory."""

from __future__ import annotations

from functools import lru_cache

from holdfast_storage.cluster import CHECKPOINTING_JOBS, MOST_TASKS, SERVED_JOBS, Task
from holdfast_storage.layout import (
    LARGEST_STEP,
    TAG_NAME,
    check_attempt_folder,
    check_relative,
    check_stock_prefix,
    parse_prefix,
)
from holdfast_storage.spec import listed, mapped, matching, number, read_by, text, whole

LATEST = 1e11
"""In the year 5138. Above it, a time cannot be told from one in milliseconds, or is none."""

_PRINTABLE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"

FORMAT = whole(1_000_000, 1)
NUMBER = STEP = SIZE = whole(LARGEST_STEP)
CRC = whole(0xFFFFFFFF)
CRC_TEXT = matching("[0-9a-f]{8}", "a CRC32C in eight hexadecimal digits")
TIME = number(LATEST)
GENERATION = matching("[0-9a-f]{8}", "the id of a generation, eight hexadecimal digits")
ID = matching(f"{_PRINTABLE}{{1,256}}", "an id of at most 256 printable characters")
HOST = matching(f"{_PRINTABLE}{{0,256}}", "a host of at most 256 printable characters")
ADDRESS = matching(
    r"((\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[\w.-]{1,255}):[0-9]{1,5}|unix-abstract:holdfast-[0-9a-f]{32})?",
    "an address such as host:7070, [::1]:7070, the socket of an embedded coordinator, or none",
)
CLUSTER = mapped(
    matching(f"{_PRINTABLE}{{1,256}}", "a type of tasks, in printable characters"),
    listed(matching(f"{_PRINTABLE}{{0,1024}}", "the address of a task, in printable characters"), MOST_TASKS),
    1_000,
)
WORD = text(1024)
KEY = text(65_536)  # of a tensor; a program's names may hold anything
NOTE = text(4 << 20)
URL = matching(f"{_PRINTABLE}{{1,4096}}", "a URL of at most 4,096 printable characters")
TAG = matching(TAG_NAME, "a name of letters, digits, '.', '_' and '-', which begins with a letter, at most 64 of them")
REASON = matching(f"{_PRINTABLE}{{0,256}}", "at most 256 printable characters")


@lru_cache(8192)  # a manifest names each of thousands several times
def _saving_task(name: str) -> bool | None:
    return Task.parse(name).type in (*CHECKPOINTING_JOBS, *SERVED_JOBS) or None


TASK = read_by(_saving_task, "a worker such as worker-2")
FOLDER = read_by(check_attempt_folder, "the folder of a checkpoint, such as ckpt-1000.7f3a2c1b.12")
PREFIX = read_by(parse_prefix, "the prefix of a checkpoint, such as ckpt-1000.7f3a2c1b.12/ckpt-1000")
STOCK_PREFIX = read_by(check_stock_prefix, "a path below the run directory")
OBJECT = read_by(check_relative, "a path below the checkpoint's folder")
