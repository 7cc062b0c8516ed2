"""A hardware service at hand: launched, attached to, or made in this process."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
from hermes_core.api.errors import InputError
from hermes_core.rpc import ChannelSecurity, parse_address
from hermes_proto.hw.v1 import hardware_model_pb2 as pb

from hermes_hw.client.cache import DiskCache
from hermes_hw.client.caller import Caller, silent
from hermes_hw.client.clock import Clock, WallClock
from hermes_hw.client.description import ServiceDescription, checked_description
from hermes_hw.client.faults import CallFailed, ServiceError
from hermes_hw.client.launch import Launched
from hermes_hw.client.questions import PROTOCOLS, SERVICE
from hermes_hw.client.session import Binding, Session, raise_refusals
from hermes_hw.client.stats import Statistics
from hermes_hw.client.transport import GrpcTransport, InProcessTransport, Transport

START_UP_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where a service is: one of `command` (launched), `address` (attached to) and `python` ("module:attribute")."""

    name: str
    """What messages call it."""
    command: Sequence[str] = ()
    address: str = ""
    python: str = ""
    security: ChannelSecurity = field(default_factory=ChannelSecurity)
    deadline_s: float | None = None
    start_up_s: float = START_UP_S
    patience_s: float = 10.0
    metadata: tuple[tuple[str, str], ...] = ()


class Service:
    """A reachable service that speaks our protocol. A context manager; `close` ends a process that was launched.

    Raises ServiceError when it cannot be reached, InputError when the target makes no sense.
    """

    def __init__(self, target: Target, *, clock: Clock | None = None, tell: Callable[[str], None] = silent) -> None:
        if sum(bool(way) for way in (target.command, target.address, target.python)) != 1:
            raise InputError(
                f"hardware service {target.name}: give one of command, address and python",
                remedy="command launches it, address attaches to one that runs, python is a class of this process.",
            )
        self.target = target
        self.clock = clock or WallClock()
        self.launched: Launched | None = None
        stats = Statistics()
        began = self.clock.now_s()
        self.transport = self._connected()
        self.caller = Caller(
            service=target.name,
            transport=self.transport,
            clock=self.clock,
            gone=self._gone,
            deadline_s=target.deadline_s,
            patience_s=target.patience_s,
            tell=tell,
            stats=stats,
        )
        try:
            self._wait()
            stats.launch_s = self.clock.now_s() - began
            self.description = self._described()
        except BaseException:
            self.close()
            raise

    @property
    def stats(self) -> Statistics:
        """What it was asked so far."""
        return self.caller.stats

    @property
    def open_on_purpose(self) -> bool:
        """Whether it is reached over TCP without TLS."""
        target = self.target
        return bool(target.address) and not parse_address(target.address).is_unix and target.security.tls is None

    def validate(self, config_json: str, where: str = "config") -> None:
        """Raise InputError with everything that the service finds wrong with a configuration."""
        answer = self.caller.call("ValidateConfig", pb.ValidateConfigRequest(config_json=config_json))
        raise_refusals(self.target.name, where, answer.diagnostics)

    def session(self, binding: Binding, *, cache: DiskCache | None = None, where: str = "config") -> Session:
        """Open a session."""
        self.validate(binding.config_json, where)
        return Session(self.caller, self.description, binding, cache=cache, where=where)

    def close(self) -> None:
        """Let go of the service; end its process when we started it."""
        self.transport.close()
        if self.launched is not None:
            self.launched.end()
            self.launched = None

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _connected(self) -> Transport:
        target = self.target
        if target.python:
            return InProcessTransport(_servicer(target.name, target.python))
        if target.command:
            self.launched = Launched(target.name, target.command)
            return GrpcTransport(self.launched.address, metadata=target.metadata)
        return GrpcTransport(parse_address(target.address), target.security, metadata=target.metadata)

    def _gone(self) -> str | None:
        return self.launched.gone() if self.launched is not None else None

    def _wait(self) -> None:
        """Wait until a process that was launched says that it serves."""
        if self.launched is None or not isinstance(self.transport, GrpcTransport):
            return
        launched, deadline = self.launched, self.clock.now_s() + self.target.start_up_s
        while True:
            failed = self.transport.health(self.clock.sleep)
            if failed is None:
                return
            if (why := launched.gone()) is not None:
                raise launched_fault(self.target.name, why)
            waitable = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.NOT_FOUND}
            if failed.code not in {*waitable, grpc.StatusCode.UNKNOWN}:
                raise launched.fault(f"it answers health checks with {failed.code.name}")
            if self.clock.now_s() > deadline:
                raise launched.fault(f"it does not serve {self.target.start_up_s:g} s after its start")

    def _described(self) -> ServiceDescription:
        try:
            message = self.caller.call("Describe", pb.DescribeRequest(), leave=(grpc.StatusCode.UNIMPLEMENTED,))
        except CallFailed as failed:
            raise ServiceError(
                self.target.name,
                f"it does not speak {SERVICE}: {failed.details or 'no such service there'}",
                f"HERMES speaks version {' and '.join(PROTOCOLS)} of the protocol; serve that beside others.",
            ) from None
        return checked_description(self.target.name, message)


def launched_fault(service: str, why: str) -> ServiceError:
    """Return what a user is told of a launched process that ended before it served."""
    return ServiceError(service, why, "Start its command by hand to see what it lacks.")


def _servicer(name: str, path: str) -> Any:
    """Return the servicer of "module:attribute", or "file.py:attribute", which is a `HardwareService` class."""
    from hermes_hw.server import servicer_of  # noqa: PLC0415 - only this way of asking needs it

    module_name, colon, attribute = path.rpartition(":")
    if not colon:
        raise InputError(f"hardware service {name}: {path!r} is not MODULE:CLASS", remedy="As in acme.asic:ToyAsic.")
    try:
        if module_name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
            if spec is None or spec.loader is None:
                raise ImportError(module_name)  # noqa: TRY301 - one message for all
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        found = getattr(module, attribute)
    except (ImportError, AttributeError, FileNotFoundError) as error:
        raise InputError(f"hardware service {name}: {path!r} cannot be imported: {error}") from None
    return servicer_of(found())
