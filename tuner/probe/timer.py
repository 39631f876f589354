"""A timer of microseconds on the event loop, by Linux's timerfd; elsewhere the loop's own, which counts milliseconds.

Clock: `time.perf_counter`, which on Linux is the monotonic clock the kernel's timers use.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1
_READ_BYTES = 8


class _Spec(ctypes.Structure):
    """struct itimerspec: interval and first expiry, each in seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class PreciseTimer:
    """Calls back once at an absolute time; setting it again replaces the time. Belongs to the running loop."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._open()

    def _open(self) -> int:
        try:
            fd = int(self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS))
        except AttributeError:
            return -1
        if fd >= 0:
            self._loop.add_reader(fd, self._rung)
        return fd

    def at(self, due_s: float) -> None:
        if self._fd < 0:
            self._set_loop_timer(due_s)
            return
        # Zero would disarm it: a time that has passed is one nanosecond after the clock began.
        due_ns = max(1, int(due_s * 1e9))
        spec = _Spec(0, 0, due_ns // 10**9, due_ns % 10**9)
        if self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(spec), None) != 0:
            self._set_loop_timer(due_s)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._handle is not None:
            self._handle.cancel()

    def _set_loop_timer(self, due_s: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0.0, due_s - time.perf_counter()), self._callback)

    def _rung(self) -> None:
        try:
            os.read(self._fd, _READ_BYTES)
        except BlockingIOError:  # set anew since it rang
            return
        self._callback()


class Alarm:
    """Await an absolute time; one waiter at a time."""

    def __init__(self) -> None:
        self._timer = PreciseTimer(self._ring)
        self._waiter: asyncio.Future[None] | None = None

    async def until(self, due_s: float) -> None:
        while time.perf_counter() < due_s:
            self._waiter = asyncio.get_running_loop().create_future()
            self._timer.at(due_s)
            await self._waiter

    def close(self) -> None:
        self._timer.close()

    def _ring(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
