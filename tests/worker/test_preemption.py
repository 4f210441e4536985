"""What counts as notice that a host is to go away, and who hears of it."""

from __future__ import annotations

import hashlib
import http.server
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import InvalidRequest
from holdfast.preemption import Preempted, Preemption, Watch, ask, is_notice
from support.light_worker import until


@pytest.fixture
def watch() -> Iterator[Callable[[Preemption], list[str]]]:
    """Begins to watch; what was noticed."""
    watches: list[Watch] = []

    def begin(terms: Preemption) -> list[str]:
        noticed: list[str] = []
        watches.append(Watch(terms, noticed.append))
        watches[-1].start()
        return noticed

    yield begin
    for each in watches:
        each.close()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The signals of this process are as before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before
    wakeup = signal.set_wakeup_fd(-1)
    assert wakeup == -1


def test_a_signal_is_heard_while_the_main_thread_is_busy(watch: Callable[[Preemption], list[str]]) -> None:
    """The signal is heard though no Python runs in the main thread. Guards against notice that comes a step late, since
    TensorFlow holds the main thread."""
    noticed = watch(Preemption(signals=(signal.SIGTERM, signal.SIGUSR1)))
    heard = threading.Event()
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    threading.Thread(target=lambda: (until(lambda: bool(noticed)), heard.set())).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)  # one instruction, without the interpreter's lock
    assert heard.is_set()
    assert noticed == ["SIGUSR1"]


def test_signals_are_taken_again(watch: Callable[[Preemption], list[str]]) -> None:
    """What a strategy has taken since is taken back. Guards against MultiWorkerMirroredStrategy, after which SIGTERM is
    nobody's."""
    noticed: list[str] = []
    watched = Watch(Preemption(signals=(signal.SIGUSR1,)), noticed.append)
    watched.start()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    watched.take_signals()
    os.kill(os.getpid(), signal.SIGUSR1)
    until(lambda: noticed == ["SIGUSR1"])
    watched.close()


def test_beside_another_descriptor(watch: Callable[[Preemption], list[str]]) -> None:
    """Where asyncio listens already, the handler alone gives notice. Guards against an event loop that is deaf from
    then on."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    noticed = watch(Preemption(signals=(signal.SIGUSR1,)))
    os.kill(os.getpid(), signal.SIGUSR1)
    until(lambda: noticed == ["SIGUSR1"])
    assert os.read(read, 1) == bytes([signal.SIGUSR1])
    signal.set_wakeup_fd(-1)


def test_an_event_loop_comes_and_goes(watch: Callable[[Preemption], list[str]]) -> None:
    """An event loop that takes the descriptor later, and leaves none behind, costs no notice. Guards against a signal
    that is taken, and of which nobody hears; and against an end that closes another's descriptor."""
    noticed: list[str] = []
    watched = Watch(Preemption(signals=(signal.SIGUSR1,)), noticed.append)
    watched.start()
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    os.kill(os.getpid(), signal.SIGUSR1)
    until(lambda: noticed == ["SIGUSR1"])
    assert os.read(read, 1) == bytes([signal.SIGUSR1])
    assert signal.set_wakeup_fd(-1) == write
    os.kill(os.getpid(), signal.SIGUSR1)
    until(lambda: noticed == ["SIGUSR1"] * 2)
    signal.set_wakeup_fd(write)
    watched.close()
    assert signal.set_wakeup_fd(-1) == write
    os.fstat(write)
    os.close(read)
    os.close(write)


def test_two_watches(watch: Callable[[Preemption], list[str]]) -> None:
    """Each has its notice until its own end, whichever ends first. Guards against a manager that is deaf, or a process
    that no signal ends any more, once another manager is closed."""
    before = signal.getsignal(signal.SIGUSR1)
    told: tuple[list[str], list[str]] = [], []
    first, second = (Watch(Preemption(signals=(signal.SIGUSR1,)), each.append) for each in told)
    first.start()
    second.start()
    os.kill(os.getpid(), signal.SIGUSR1)
    until(lambda: told == (["SIGUSR1"], ["SIGUSR1"]))
    first.close()
    os.kill(os.getpid(), signal.SIGUSR1)
    until(lambda: told[1] == ["SIGUSR1"] * 2)
    second.close()
    assert told[0] == ["SIGUSR1"]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_fork_is_left_alone(watch: Callable[[Preemption], list[str]]) -> None:
    """SIGTERM ends a fork, and is no notice for its parent. Guards against a data loader whose end is taken for a
    preemption."""
    noticed = watch(Preemption())
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, b"x")
        time.sleep(30.0)
        os._exit(1)
    os.read(read, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM
    time.sleep(0.1)
    assert not noticed


def test_other_threads_cannot_take_signals() -> None:
    """They are told what to do. Guards against Python's ValueError, which says nothing of preemption."""
    raised: list[Exception] = []

    def start() -> None:
        try:
            Watch(Preemption(), lambda what: None).start()
        except InvalidRequest as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def test_a_file(watch: Callable[[Preemption], list[str]], tmp_path: Path) -> None:
    """A file that appears is notice, once for each time. Guards against a save every two seconds while it is there."""
    file = tmp_path / "notice"
    noticed = watch(Preemption(signals=(), file=file, poll_every=0.1))
    assert not noticed
    file.write_text("")
    until(lambda: len(noticed) == 1)
    time.sleep(0.3)
    assert noticed == [f"the file {file}"]
    file.unlink()
    time.sleep(0.3)
    file.write_text("")
    until(lambda: len(noticed) == 2)


class Service(http.server.BaseHTTPRequestHandler):
    """A metadata service, of AWS's kind: it wants a token."""

    answer: tuple[int, str] = (404, "")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != "secret":
            self.send_error(401)
            return
        status, text = self.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Service.answer = 404, ""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/latest/meta-data/spot/instance-action"
        server.shutdown()


def test_a_url(url: str, watch: Callable[[Preemption], list[str]]) -> None:
    """An answer is notice, with a token if it is wanted. Guards against instances of AWS that answer nothing without
    one."""
    noticed = watch(Preemption(signals=(), url=url, poll_every=0.1))
    time.sleep(0.3)
    assert not noticed
    assert ask(url) == ""
    Service.answer = 200, '{"action": "terminate", "time": "2017-09-18T08:22:00Z"}'
    until(lambda: noticed == [f"the answer of {url}"])


def test_a_url_that_is_out_of_reach(watch: Callable[[Preemption], list[str]], caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and is no notice. Guards against a job that ends, or a log that fills up, because a service is
    away."""
    noticed = watch(Preemption(signals=(), url="http://127.0.0.1:1/", poll_every=0.1))
    until(lambda: "is not known" in caplog.text)
    time.sleep(0.4)
    assert caplog.text.count("is not known") == 1
    assert not noticed


@pytest.mark.parametrize(
    ("answer", "notice"),
    [
        ("", False),
        ("FALSE", False),
        ("NONE\n", False),
        ("TRUE", True),
        ("TERMINATE_ON_HOST_MAINTENANCE", True),
        ('{"action": "stop", "time": "2017-09-18T08:22:00Z"}', True),
        ('{"DocumentIncarnation": 1, "Events": []}', False),
        ('{"Events": [{"EventType": "Reboot"}]}', False),
        ('{"Events": [{"EventType": "Preempt"}]}', True),
    ],
)
def test_answers(answer: str, notice: bool) -> None:
    """The answers of three clouds. Guards against a job that ends because a service says that nothing is the matter."""
    assert is_notice(answer) is notice


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grace", -1),
        ("grace", "30"),
        ("poll_every", 0),
        ("exit_code", 256),
        ("exit_code", "143"),
        ("url", "169.254.169.254/x"),
        ("url", 1),
        ("signals", (signal.SIGKILL,)),
        ("signals", signal.SIGTERM),
        ("signals", "SIGTERM"),
    ],
)
def test_wrong_terms(name: str, value: Any) -> None:
    """They are refused by name. Guards against a mistake that is found when the host is gone."""
    with pytest.raises(InvalidRequest, match=name):
        Preemption(**{name: value})


def test_preempted_is_an_exit_status() -> None:
    """Its code is what the process ends with. Guards against an `except Exception` that goes on training."""
    error = Preempted(143, "SIGTERM on worker-1")
    assert (error.code, str(error), isinstance(error, Exception)) == (143, "SIGTERM on worker-1", False)
