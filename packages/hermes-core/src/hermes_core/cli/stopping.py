"""Being told to end: by a terminal that goes away, a batch system or `kill`, the same as by Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = ("SIGTERM", "SIGHUP")
"""SIGHUP is not everywhere."""


@contextmanager
def ends_like_ctrl_c() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP do meanwhile what Ctrl-C does; yields the list of those that came, at most one of each.

    By itself a process ends on them without a word: its output stays half-written, and the processes that it started
    go on. A second one of the same kind does just that. What is ignored (nohup) stays so. Commands that serve answer
    them in their own way.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may
        yield came
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        came.append(number)
        interrupt = signal.getsignal(signal.SIGINT)
        if callable(interrupt):
            interrupt(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
