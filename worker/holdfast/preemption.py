"""Notice that this host is to go away: what counts as notice, and the watch for it.

Python runs a signal's handler when the main thread comes back from TensorFlow, which may be a step later. So a thread
listens at the descriptor that CPython's C handler writes to at once (`signal.set_wakeup_fd`). While that is somebody
else's, as asyncio's, the handler alone is left. An event loop that ends leaves no descriptor at all.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.error
import urllib.parse
import urllib.request
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.logger import logger

log = logger("holdfast")

ANSWERS_WITHIN = 2.0
"""Seconds for the answer of a URL that is asked."""

LARGEST_ANSWER = 64 << 10


class Preempted(SystemExit):
    """All workers end now, by agreement, and what could be saved is saved.

    Attributes:
        code: the exit status of the process.
        reason: whose host goes away, and why.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class Preemption:
    """What counts as notice that this host is to go away, and what is done then.

    Args:
        grace: seconds from the notice until the host is gone: 30 for Kubernetes unless its pods say otherwise (15 for
            ordinary pods on GKE Spot), 120 for a spot instance of AWS.
        signals: each of these is notice. The manager must be made in the main thread then.
        file: a path; a file that appears there is notice.
        url: is asked every `poll_every` seconds. An answer other than an error, nothing, FALSE or NONE is notice, and
            of Azure's scheduled events one that is of type Preempt. Headers that the metadata services of Google and
            Azure want are sent; AWS's is given a token if it wants one.
        poll_every: seconds between two looks at `file` and `url`.
        exits: whether all workers end once they have saved. Otherwise training goes on, and there may be notice again.
        exit_code: 143 is the status of a process that SIGTERM has ended: what restarts jobs takes it for no fault of
            the program.
    """

    grace: float = 30.0
    signals: Iterable[int] = (signal.SIGTERM,)
    file: str | os.PathLike[str] | None = None
    url: str | None = None
    poll_every: float = 2.0
    exits: bool = True
    exit_code: int = 143

    def __post_init__(self) -> None:
        for name, least in (("grace", 0.0), ("poll_every", 0.1)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not least <= value <= 86_400:
                raise InvalidRequest(f"{name} is {value!r}: it must be seconds, from {least:g} to a day", object=name)
        if not isinstance(self.exit_code, int) or not 0 <= self.exit_code <= 255:
            raise InvalidRequest(f"exit_code is {self.exit_code!r}: it must be from 0 to 255", object="exit_code")
        if self.url is not None and not str(self.url).startswith(("http://", "https://")):
            raise InvalidRequest(f"url is {self.url!r}: it must begin with http:// or https://", object="url")
        signals = tuple(self.signals) if isinstance(self.signals, Iterable) else None
        if signals is None or not signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP} >= set(signals):
            raise InvalidRequest(
                f"signals is {self.signals!r}: it must hold signals that a program can take, such as signal.SIGTERM",
                object="signals",
            )
        object.__setattr__(self, "signals", signals)


class Watch:
    """Watches for notice, from `start` to `close`, and calls `noticed` with what it was, on a thread of its own."""

    def __init__(self, terms: Preemption, noticed: Callable[[str], None]) -> None:
        self._terms = terms
        self._noticed = noticed
        self._closed = threading.Event()
        self._before: dict[int, Any] = {}  # the handlers that were there
        self._pipe = -1  # the end that is written to by signals; -1: there is no thread that listens

    def start(self) -> None:
        """Raises InvalidRequest if signals are notice and this is not the main thread."""
        if self._terms.signals:
            if not self._can_take:
                raise InvalidRequest(
                    "only the main thread can watch for signals: make the CheckpointManager there, or pass "
                    "preemption=Preemption(signals=())",
                    object="preemption",
                )
            self._listen()
            self.take_signals()
            _watching.add(self)
        if self._terms.file is not None or self._terms.url is not None:
            self._begin("holdfast-poll", self._poll)

    def take_signals(self) -> None:
        """Take the signals, also again: `MultiWorkerMirroredStrategy` takes SIGTERM at C level when it is made, and
        nobody is told. Does nothing in other threads than the main one."""
        if self._can_take and not self._closed.is_set():
            for number in self._terms.signals:
                before = signal.signal(number, self._handle)
                if before != self._handle:
                    self._before.setdefault(number, before)

    def close(self) -> None:
        """Give the signals back, and end. In another thread than the main one, signals go on to come, and to be no
        notice."""
        if self._closed.is_set():
            return
        self._closed.set()
        _watching.discard(self)
        if self._can_take:
            self._give_back()
            if self._pipe != -1:
                if self._is_listening():
                    signal.set_wakeup_fd(-1)
                os.close(self._pipe)  # the thread that reads from it ends

    @property
    def _can_take(self) -> bool:
        """Whether there are signals to take, and this is the thread that may."""
        return bool(self._terms.signals) and threading.current_thread() is threading.main_thread()

    def _listen(self) -> None:
        read, write = os.pipe()
        os.set_blocking(write, False)
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        if before == -1:
            self._pipe = write
            self._begin("holdfast-signals", self._read, read)
        else:
            signal.set_wakeup_fd(before)
            os.close(read)
            os.close(write)

    def _is_listening(self) -> bool:
        """Whether the thread hears of signals now. Python tells the descriptor only to who sets another one."""
        if self._pipe == -1:
            return False
        now = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        if now != self._pipe:
            with suppress(ValueError, OSError):  # its owner has closed it
                signal.set_wakeup_fd(now)
        return now == self._pipe

    def _begin(self, name: str, target: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=target, args=args, name=name, daemon=True).start()

    def _read(self, read: int) -> None:
        while numbers := os.read(read, 64):
            for number in numbers:
                self._take(number)
        os.close(read)

    def _handle(self, number: int, frame: object) -> None:
        if not self._is_listening():  # otherwise the thread hears of it
            self._begin("holdfast-signals", self._take, number)

    def _take(self, number: int) -> None:
        if number in self._terms.signals and not self._closed.is_set():
            self._noticed(signal.Signals(number).name)

    def _poll(self) -> None:
        before, failing = "", False
        while not self._closed.wait(self._terms.poll_every):
            try:
                found = self._look()
            except (OSError, ValueError) as error:
                if not failing and not self._closed.is_set():
                    log.warning("whether this host is to go away is not known: %s", error)
                failing = True
                continue
            if found and not before:
                self._noticed(found)
            before, failing = found, False

    def _look(self) -> str:
        """Return what is notice now; empty if nothing is."""
        terms = self._terms
        if terms.file is not None and os.path.exists(terms.file):
            return f"the file {terms.file}"
        return f"the answer of {terms.url}" if terms.url is not None and is_notice(ask(terms.url)) else ""

    def _give_back(self) -> None:
        for number in self._before:
            if signal.getsignal(number) == self._handle:  # otherwise somebody has taken it since, and goes on with it
                with suppress(ValueError, TypeError):  # one that C code has set, which Python cannot name
                    signal.signal(number, self._handler_before(number))

    def _handler_before(self, number: int) -> Any:
        """The handler that was there before, and before other watches that have ended since."""
        before = self._before[number]
        watch = getattr(before, "__self__", None)
        return watch._handler_before(number) if isinstance(watch, Watch) and watch._closed.is_set() else before


def is_notice(answer: str) -> bool:
    """Return whether a metadata service's answer says that this host is to go away."""
    text = answer.strip()
    if text.lower() in ("", "false", "none"):
        return False
    try:
        content = json.loads(text)
    except ValueError:
        return True
    if isinstance(content, dict) and isinstance(events := content.get("Events"), list):
        return any(isinstance(event, dict) and event.get("EventType") == "Preempt" for event in events)
    return True


def ask(url: str) -> str:
    """Return the answer of a URL; empty if there is none. Raises OSError if it could not be asked."""
    headers = {"Metadata-Flavor": "Google", "Metadata": "true"}
    try:
        return _get(url, headers)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        if error.code != 401:
            raise
    # AWS's: a session's token is asked for first.
    token = _get(urllib.parse.urljoin(url, "/latest/api/token"), {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    try:
        return _get(url, {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise


def _get(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # such a service is on this host
    with opener.open(request, timeout=ANSWERS_WITHIN) as answer:
        text: bytes = answer.read(LARGEST_ANSWER)
        return text.decode(errors="replace")


_watching: weakref.WeakSet[Watch] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """Give a fork the handlers that were there before. It writes to the parent's pipe otherwise: a data loader
    that is ended would be notice for its parent."""
    for watch in list(_watching):
        watch.close()


os.register_at_fork(after_in_child=_leave_to_parent)
