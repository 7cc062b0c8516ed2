"""Runs the server: sockets, time limits, the record, and a stop that loses nobody's answer."""

import asyncio
import gc
import logging
import resource
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn

from hermes_core.api.errors import InputError, MissingExtraError
from hermes_core.live.answers import Length
from hermes_core.live.app import AppSettings, application
from hermes_core.live.clock import Speed, WallClock, unix_s
from hermes_core.live.faults import Faults
from hermes_core.live.hub import Hub
from hermes_core.live.journal import JournalFile
from hermes_core.live.lag import LagWatch
from hermes_core.live.metrics import Metrics
from hermes_core.live.models import catalogue_of
from hermes_core.live.pacer import Pacer
from hermes_core.live.protocol import HEADER_TIMEOUT_S, timed_protocol
from hermes_core.live.service import Service
from hermes_core.live.session import LiveSession
from hermes_core.live.text import tokeniser_of
from hermes_core.live.told import SessionObserver
from hermes_core.record import RecordSink
from hermes_core.serving.assembly import Compiled
from hermes_core.serving.plan import SimulationPlan

if TYPE_CHECKING:
    from hermes_core.live.kv_events import KvPublisher, TokenMemory

_log = structlog.get_logger(__name__)

_FLUSH_EVERY_S: Final = 1.0
_BACKLOG: Final = 4096
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a scenario is served."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes any that is free."""
    speed: Speed = field(default_factory=Speed)
    tokeniser: Path | None = None
    length: Length = field(default_factory=Length)
    names: Sequence[str] = ()
    """Further names of the first model."""
    adapters: Sequence[str] = ()
    app: AppSettings = field(default_factory=AppSettings)
    certificate: Path | None = None
    certificate_key: Path | None = None
    client_ca: Path | None = None
    """Clients must show a certificate of this authority."""
    header_timeout_s: float = HEADER_TIMEOUT_S
    drain_timeout_s: float | None = None
    """Streams that are open longer than this after SIGTERM are cut; None waits for all."""
    max_connections: int | None = None


class _Server(uvicorn.Server):
    """Tells the service when it begins to stop."""

    service: Service

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ARG002 - uvicorn's
        """Take nothing more; what is open goes on to its end. A second Ctrl-C ends that too."""
        # Not uvicorn's own: that raises the signal again when it has stopped, before the record is written.
        again = self.should_exit
        self.service.draining = self.should_exit = True
        self.force_exit = self.force_exit or (again and sig == signal.SIGINT)
        _log.info("live.draining", open_requests=self.service.pacer.open)


Ready = Callable[[Service, str], None]
"""Called with the service and its address when the server listens."""


class LiveServer:
    """A scenario behind an OpenAI-compatible server. Raises HermesError for what cannot be simulated or served."""

    def __init__(
        self,
        plan: SimulationPlan,
        settings: ServeSettings,
        sink: RecordSink,
        *,
        compiled: Mapping[str, Compiled] | None = None,
        plugins: Mapping[str, Mapping[str, Any]] | None = None,
        journal: Path | None = None,
    ) -> None:
        self._settings = settings
        self._tokeniser = tokeniser_of(settings.tokeniser)
        self._lag = LagWatch()
        self._faults = Faults()
        self._hub = Hub()
        self.session = LiveSession(
            plan, sink, self._hub, compiled=compiled, plugins=plugins, adapters=settings.adapters
        )
        self._journal = JournalFile(journal, self.session.pipelines, self.session.adapters) if journal else None
        if self._journal is not None:
            self._hub.add(self._journal)
        self.metrics = Metrics(self._lag, self._faults)
        self.metrics.attach(self.session)
        self._hub.add(self.metrics)
        self._server: _Server | None = None
        self._closers: list[Callable[[], None]] = []
        self._publisher: KvPublisher | None = None
        self._memory: TokenMemory | None = None

    def publish_kv_events(self, endpoint: str, *, maps: bool = False) -> list[str]:
        """Publish KV events over ZMQ. Returns where each replica publishes.

        Raises InputError for an endpoint that cannot be used, MissingExtraError without the extra `kv-events`.
        """
        try:
            from hermes_core.live.kv_events import KvPublisher, TokenMemory, watch_pools  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise _missing(error, "publishing KV events", "kv-events") from None
        self._publisher = KvPublisher(endpoint, len(self.session.clients), maps=maps)
        self._memory = TokenMemory(self._tokeniser.ids)
        watch_pools(self.session, self._publisher.take, self._memory)
        self._closers.append(self._publisher.close)
        return self._publisher.endpoints

    def serve_rpc(self, address: str, *, insecure: bool = False, consent: str = "insecure=True") -> str:
        """Serve `hermes.core.v1` beside HTTP, with its TLS files and its first key. Returns the address.

        `consent` is what a message names that would allow TCP without TLS.

        Raises InputError for an address that cannot be used so, MissingExtraError without the extra `grpc`.
        """
        try:
            from hermes_core.live.rpc_services import rpc_server  # noqa: PLC0415
            from hermes_core.rpc import ServerSecurity, TlsFiles  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise _missing(error, "gRPC", "grpc") from None
        settings = self._settings
        tls = None
        if settings.certificate is not None and not address.startswith("unix:"):
            tls = TlsFiles(settings.client_ca, settings.certificate, settings.certificate_key)
        token = settings.app.keys[0] if settings.app.keys else None
        server = rpc_server(self.session, address, ServerSecurity(tls, token, insecure, consent))
        server.start()
        self._closers.append(server.stop)
        return str(server.address)

    def trace(self, endpoint: str) -> None:
        """Send traces to an OTLP/HTTP endpoint. Raises MissingExtraError without the extra `otel`."""
        try:
            from hermes_core.live.tracing import Tracing, exporter_of  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise _missing(error, "tracing", "otel") from None
        tracing = Tracing(self.session, exporter_of(endpoint))
        self._hub.add(tracing)
        self._closers.append(tracing.close)

    def watch(self, observer: SessionObserver) -> None:
        """Let one more be told what happens in the session."""
        self._hub.add(observer)

    def run(self, ready: Ready | None = None) -> None:
        """Serve until a signal or `stop` ends it, then write the rest of the record."""
        _raise_file_limit()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self.serve(ready))

    async def serve(self, ready: Ready | None = None) -> None:
        """Serve within a running event loop."""
        settings = self._settings
        listening = _listen(settings)
        pacer = Pacer(self.session, WallClock(settings.speed), self._lag)
        self._hub.add(pacer)
        told = self._memory.told if self._memory is not None else None
        if self._publisher is not None:
            pacer.after_tick = self._publisher.flush
        service = Service(
            pacer, catalogue_of(self.session, settings.names, told), self._tokeniser, settings.length, self._faults,
            boot=int(unix_s()),
        )  # fmt: skip
        service.kv_events = self._publisher.since if self._publisher is not None else None
        server = self._server = _Server(self._config(application(service, self.metrics, settings.app)))
        server.service = service
        port = listening.getsockname()[1]
        scheme = "https" if settings.certificate else "http"
        address = f"{scheme}://{settings.host}:{port}"
        _log.info("live.listening", address=address, models=list(service.catalogue.served))
        flusher = asyncio.ensure_future(self._flush())
        # What was made until now stays: the collector of cycles need not look at it again.
        gc.collect()
        gc.freeze()
        try:
            if ready is not None:
                asyncio.get_running_loop().call_soon(ready, service, address)
            await server.serve(sockets=[listening])
        finally:
            gc.unfreeze()
            flusher.cancel()
            listening.close()
            pacer.close()
            self._close(pacer)

    def stop(self) -> None:
        """Begin to stop, as SIGTERM does. To be called from the event loop."""
        if self._server is not None:
            self._server.service.draining = True
            self._server.should_exit = True

    def _close(self, pacer: Pacer) -> None:
        trailer = self.session.close(pacer.clock.now())
        if self._journal is not None:
            self._journal.close()
        for close in self._closers:
            close()
        _log.info(
            "live.closed",
            requests=trailer.requests,
            late_p95_ms=round(1e3 * self._lag.p95_s, 3),
            late_worst_ms=round(1e3 * self._lag.worst_s, 3),
            warnings=self._lag.warnings,
        )

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_EVERY_S)
            self.session.flush()
            if self._journal is not None:
                self._journal.flush()

    def _config(self, app: Any) -> uvicorn.Config:
        settings = self._settings
        # Its own log lines say what ours do; faults on purpose and vanishing clients would fill them.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        return uvicorn.Config(
            app,
            http=timed_protocol(settings.header_timeout_s),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=_BACKLOG,
            limit_concurrency=settings.max_connections,
            timeout_graceful_shutdown=None if settings.drain_timeout_s is None else int(settings.drain_timeout_s),
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.certificate_key,
            ssl_ca_certs=None if settings.client_ca is None else str(settings.client_ca),
            ssl_cert_reqs=2 if settings.client_ca is not None else 0,
        )


def _missing(error: ModuleNotFoundError, what: str, extra: str) -> Exception:
    if error.name is None or error.name.startswith("hermes_core"):
        return error
    return MissingExtraError(f"{what} needs {error.name}, which is not installed: pip install 'hermes-core[{extra}]'")


def _listen(settings: ServeSettings) -> socket.socket:
    """Bind the socket. Raises InputError if that cannot be done."""
    for path in (settings.certificate, settings.certificate_key, settings.client_ca):
        if path is not None and not path.is_file():
            raise InputError(f"there is no file {path}", remedy="Name certificate and key as PEM files.")
    if settings.certificate is None and (settings.certificate_key or settings.client_ca):
        raise InputError("TLS needs a certificate", remedy="Add --certificate FILE.")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by each connection: tokens are small, and are not to wait for one another.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise InputError(
            f"cannot listen at {settings.host}:{settings.port}: {error.strerror}",
            remedy="Choose another --port; 0 takes any that is free.",
        ) from error
    return listening


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop where it is installed: it wakes up more exactly and costs less for each token."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _raise_file_limit() -> None:
    """Let the process have as many connections as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def with_keys(settings: ServeSettings, keys: Sequence[str]) -> ServeSettings:
    """Return the settings with API keys."""
    return replace(settings, app=replace(settings.app, keys=tuple(keys)))
