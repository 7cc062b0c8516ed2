"""Starts a vendor's process, and ends exactly that one.

The process finds in its environment where to listen (HERMES_HW_ENDPOINT, a socket in a folder that only its owner can
enter), which versions of the protocol the host speaks (HERMES_HW_PROTOCOLS, with commas) and a sign that a host has
started it (HERMES_HW_COOKIE). Its stdin is a pipe that ends when the host does: a service that sees its end should end
too. What it prints goes to the log.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

import structlog
from hermes_core.api.errors import InputError
from hermes_core.rpc import Address, parse_address

from hermes_hw.client.faults import ServiceError, cut
from hermes_hw.client.questions import PROTOCOLS

ENDPOINT: Final = "HERMES_HW_ENDPOINT"
PROTOCOL_LIST: Final = "HERMES_HW_PROTOCOLS"
COOKIE: Final = "HERMES_HW_COOKIE"
COOKIE_VALUE: Final = "a-host-started-this"
"""No secret: it only tells a service that it was not started by hand."""
_GRACE_S: Final = 5.0
_LINES_KEPT: Final = 20
_LOOK_EVERY_S: Final = 0.02
_log = structlog.get_logger("hermes.hw")


class Launched:
    """A process that `command` started, listening at `address` in a private folder. `end` ends it, and only it."""

    def __init__(self, service: str, command: Sequence[str]) -> None:
        self._service = service
        self._folder = Path(tempfile.mkdtemp(prefix="hermes-hw-"))
        self.address: Address = parse_address(f"unix:{self._folder / 'hw.sock'}")
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        # `python` in a command is the one that runs this, also where its environment is not activated.
        beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        environment = {
            **os.environ,
            "PATH": beside,
            ENDPOINT: str(self.address),
            PROTOCOL_LIST: ",".join(PROTOCOLS),
            COOKIE: COOKIE_VALUE,
        }
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise InputError(
                f"hardware service {service}: its command {list(command)} cannot be started: {error.strerror}",
                remedy="Check that the program is installed, and its path (relative to the folder you are in).",
            ) from None
        pipes = (("stdout", self._process.stdout), ("stderr", self._process.stderr))
        self._readers = [
            threading.Thread(target=self._forward, args=(name, pipe), daemon=True) for name, pipe in pipes if pipe
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def gone(self) -> str | None:
        """Return how the process ended and what it said last; None while it runs."""
        code = self._exit_code()
        if code is None:
            return None
        for reader in self._readers:
            reader.join(timeout=1.0)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        said = "; it said last:\n    " + "\n    ".join(self._lines) if self._lines else ", saying nothing"
        return f"its process {how}{said}"

    def end(self, grace_s: float = _GRACE_S) -> None:
        """Ask the process to end, wait `grace_s` seconds, insist, and remove its folder."""
        if self._exit_code() is None:
            self._signal(signal.SIGTERM)
            pause = threading.Event()
            for _ in range(round(grace_s / _LOOK_EVERY_S)):
                if self._exit_code() is not None:
                    break
                pause.wait(_LOOK_EVERY_S)
            else:
                _log.warning("hw.service.killed", service=self._service, pid=self.pid)
        # Also what it may have started itself and left behind: the group is its own, and its number is not given to
        # another while the process was not waited for.
        self._signal(signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join(timeout=1.0)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def fault(self, problem: str) -> ServiceError:
        """Return what a user is told when the service did not come up."""
        said = "; it said last:\n    " + "\n    ".join(self._lines) if self._lines else ""
        return ServiceError(
            self._service,
            f"{problem}{said}",
            f"It must listen at the address in {ENDPOINT} and answer grpc.health.v1; see docs/vendors.md.",
        )

    def _exit_code(self) -> int | None:
        """Return how the process ended without letting go of its number; None while it runs."""
        if self._process.returncode is not None or not hasattr(os, "waitid"):
            return self._process.poll()
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # nobody is left in the group

    def _forward(self, name: str, pipe: IO[bytes]) -> None:
        for raw in pipe:
            line = cut(raw.decode(errors="replace").rstrip())
            self._lines.append(line)
            _log.info("hw.service.output", service=self._service, stream=name, line=line)
