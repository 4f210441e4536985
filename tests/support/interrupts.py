"""Interrupts at every instant at which Python runs signal handlers, one run for each.

CPython looks for signals when a function begins, when a loop goes back, and when a call has returned. Traced by
instructions, a thread can be interrupted at exactly these, in a chosen part of the program, and at each of them once.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType
from typing import Any

_LOOKS_AFTER = {"RESUME", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "CALL", "CALL_FUNCTION_EX", "CALL_KW"}
_LOOKS_AFTER |= {"JUMP_ABSOLUTE", "CALL_FUNCTION", "CALL_FUNCTION_KW", "CALL_METHOD"}  # so named in Python 3.10


@cache
def _instructions(code: CodeType) -> dict[int, str]:
    return {each.offset: each.opname for each in dis.get_instructions(code)}


class Instants:
    """The instants of this thread inside a part of the program.

    Args:
        files: ends of the names of the source files that the part consists of.
        at: the number of the instant at which `act` is called, which may raise; 0: none.
    """

    def __init__(self, files: tuple[str, ...], at: int, act: Callable[[], None]) -> None:
        self.passed = 0
        self.where = ""
        self._files, self._at, self.act = files, at, act
        self._before: dict[FrameType, str] = {}

    @property
    def reached(self) -> bool:
        return bool(self.where)

    @contextmanager
    def watched(self) -> Iterator[None]:
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 traces instructions only if a frame asked for it before
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(self._files):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._instruction

    def _instruction(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            before = self._before.get(frame, "RESUME")
            self._before[frame] = _instructions(frame.f_code)[frame.f_lasti]
            if before in _LOOKS_AFTER:
                self.passed += 1
                if self.passed == self._at:
                    self.where = f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
                    self._before.clear()
                    self.act()
        elif event == "return":
            self._before.pop(frame, None)
        return self._instruction
