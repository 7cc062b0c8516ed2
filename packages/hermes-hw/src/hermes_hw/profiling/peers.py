"""Processes beside one another, one a device, that run collectives on order; what they do is in `peer`."""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, Self

from hermes_hw.profiling.backend import Timing
from hermes_hw.profiling.plan import Point
from hermes_hw.profiling.torch_backend import calls_of

_START_S: Final = 180.0
"""How long libraries may take to load, and ranks to find one another."""
_ANSWER_S: Final = 120.0
"""How long a rank may take for an order: longer than it waits itself for the others."""
_END_S: Final = 5.0
_FAULT: Final = re.compile(r"[\w.]*(Error|Exception)\b")
"""How the last line of a traceback begins."""


class Refused(Exception):  # noqa: N818 - an answer
    """All ranks say that they cannot do this, and why; other orders they may carry out."""


class PeersLost(Exception):  # noqa: N818 - an answer
    """A rank has ended, or answers no more, and why: nothing can be measured between peers from now on."""


class Together(Protocol):
    """What a profile asks of peers."""

    world: int

    def times(self, point: Point, timing: Timing) -> list[float]:
        """Return the seconds of single collectives; raises `Refused` or `PeersLost`."""
        ...


class Peers:
    """Ranks of a collective, each a process. They are started when they are first needed. Implements `Together`."""

    def __init__(self, devices: Sequence[str], command: Sequence[str] = (), patience_s: float = _ANSWER_S) -> None:
        self.world = len(devices)
        self._devices = devices
        self._command = command or (sys.executable, "-m", "hermes_hw.profiling.peer")
        self._patience_s = patience_s
        self._ranks: list[_Rank] = []
        self._folder = tempfile.TemporaryDirectory(prefix="hermes-peers-", ignore_cleanup_errors=True)

    def __enter__(self) -> Self:
        """Return itself; nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        self._end()
        self._folder.cleanup()

    def times(self, point: Point, timing: Timing) -> list[float]:
        """Return the seconds of single collectives, each the mean of a batch as the slowest rank saw it."""
        if not self._ranks:
            self._start()
        self._ask(point, {"kind": point.kind, **point.columns})
        self._seconds(point, 1)  # connections are made in the first
        single_s = self._seconds(point, 1)
        calls = calls_of(single_s, 1)
        self._seconds(point, calls)
        return [self._seconds(point, calls) for _ in range(max(timing.runs(single_s * calls), timing.fewest_runs))]

    def _seconds(self, point: Point, calls: int) -> float:
        return max(float(answer["seconds"]) for answer in self._ask(point, {"calls": calls}))

    def _start(self) -> None:
        folder = Path(self._folder.name)
        for rank, device in enumerate(self._devices):
            words = [*self._command, str(rank), str(self.world), device, str(folder / "meeting")]
            self._ranks.append(_Rank(rank, words, folder / f"rank-{rank}.txt"))
        self._heard(self._ranks, _START_S)

    def _ask(self, point: Point, order: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Give an order to all ranks that take part in a point; return what they answer."""
        ranks = self._ranks[: point.columns["ranks"]]
        for rank in ranks:
            rank.tell(order)
        answers = self._heard(ranks, self._patience_s)
        refusals = [answer["refused"] for answer in answers if "refused" in answer]
        if len(refusals) == len(answers):
            raise Refused(refusals[0])
        if refusals:
            self._lose(f"one of them could not: {refusals[0]}")
        return answers

    def _heard(self, ranks: Sequence["_Rank"], patience_s: float) -> list[dict[str, Any]]:
        answers = []
        for rank in ranks:
            try:
                answers.append(rank.hear(patience_s))
            except EOFError:
                rank.end(_END_S)
                self._lose(f"rank {rank.number} has ended{rank.last_words()}")
            except TimeoutError:
                self._lose(f"rank {rank.number} has not answered for {patience_s:.0f} s{rank.last_words()}")
        return answers

    def _lose(self, why: str) -> None:
        self._end()
        raise PeersLost(why)

    def _end(self) -> None:
        for rank in self._ranks:
            rank.dismiss()
        for rank in self._ranks:
            rank.end(_END_S)
        self._ranks.clear()


class _Rank:
    """One process."""

    def __init__(self, number: int, words: Sequence[str], said: Path) -> None:
        self.number = number
        self._said = said
        with said.open("wb") as errors:
            # In a session of its own: Ctrl-C is for who asked.
            self._process = subprocess.Popen(  # noqa: S603 - this package's own program
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._lines: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put("")

    def tell(self, order: Mapping[str, Any]) -> None:
        """Give an order; nobody may be there to take it."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(order) + "\n")
                self._process.stdin.flush()

    def hear(self, patience_s: float) -> dict[str, Any]:
        """Return the next answer. Raises EOFError when there is none to come, TimeoutError when it does not come."""
        try:
            line = self._lines.get(timeout=patience_s)
        except Empty:
            raise TimeoutError from None
        if not line:
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        return answer

    def last_words(self) -> str:
        """Return what is known of why it is silent, to be put behind a sentence."""
        status = self._process.poll()
        if status is not None and status < 0:
            return f": signal {-status}"
        lines = [line.strip() for line in self._said.read_text(encoding="utf-8", errors="replace").splitlines()]
        faults = [line for line in lines if _FAULT.match(line)]
        return f": {faults[-1]}" if faults else ""

    def dismiss(self) -> None:
        """Say that there are no more orders."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def end(self, patience_s: float) -> None:
        """See to it that it has ended."""
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
