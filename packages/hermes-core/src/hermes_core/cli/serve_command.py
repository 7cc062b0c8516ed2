"""`hermes serve`: a scenario behind an OpenAI-compatible server."""

import logging
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hermes_core.api.errors import InputError, MissingExtraError
from hermes_core.cli.options import ScenarioFile, SeedOption, Sets

if TYPE_CHECKING:
    from hermes_core.live.server import LiveServer, ServeSettings
    from hermes_core.serving.plan import SimulationPlan

_PEM = "PEM file"


class LogFormat(StrEnum):
    """Forms of the log."""

    TEXT = "text"
    JSON = "json"


def serve(
    scenario: ScenarioFile,
    *,
    sets: Sets = None,
    seed: SeedOption = None,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port; 0 takes any.")] = 8000,
    speed: Annotated[str, typer.Option(metavar="1x|10x|max", help="Simulated time against the clock's.")] = "1x",
    tokenizer: Annotated[Path | None, typer.Option(metavar="FILE", help="A model's tokenizer.json.")] = None,
    output_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Where answers end by themselves; else at max_tokens.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another name of the first model. May be repeated.")
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(metavar="NAME", help="An adapter. May be repeated.")] = None,
    record: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for record and journal.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a run that is in DIR.")] = False,
    api_key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Keys, one a line.")] = None,
    api_key_env: Annotated[str | None, typer.Option(metavar="NAME", help="Variable that holds a key.")] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help=f"TLS: the server's {_PEM}.")] = None,
    certificate_key: Annotated[Path | None, typer.Option(metavar="FILE", help=f"TLS: its key, a {_PEM}.")] = None,
    client_ca: Annotated[Path | None, typer.Option(metavar="FILE", help=f"TLS: whose clients, a {_PEM}.")] = None,
    kv_events: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT", help="Publish KV events as vLLM does (ZMQ).")
    ] = None,
    kv_events_maps: Annotated[
        bool, typer.Option("--kv-events-maps", help="Send KV events as maps with names, not as arrays.")
    ] = False,
    otlp: Annotated[str | None, typer.Option(metavar="URL", help="Send traces per stage there (OTLP/HTTP).")] = None,
    grpc: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Serve hermes.core.v1 there: unix:PATH or HOST:PORT.")
    ] = None,
    grpc_insecure: Annotated[bool, typer.Option("--grpc-insecure", help="Allow gRPC over TCP without TLS.")] = False,
    max_connections: Annotated[int | None, typer.Option(min=1, metavar="N", help="Refuse more at once.")] = None,
    drain_timeout: Annotated[
        float | None, typer.Option(min=0, metavar="S", help="After SIGTERM cut streams that last longer.")
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="Form of the log on stderr.")] = LogFormat.TEXT,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No line for each request.")] = False,
) -> None:
    """Serve a scenario as an OpenAI-compatible endpoint whose timing is the simulated cluster's."""
    _configure_logging(log_format)
    try:
        from hermes_core.live.answers import Length  # noqa: PLC0415
        from hermes_core.live.app import AppSettings  # noqa: PLC0415
        from hermes_core.live.clock import Speed  # noqa: PLC0415
        from hermes_core.live.server import ServeSettings  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    from hermes_core.runs import plan_of  # noqa: PLC0415

    plan = plan_of(scenario, sets=sets or [], seed=seed)
    settings = ServeSettings(
        host=host,
        port=port,
        speed=Speed.parse(speed),
        tokeniser=tokenizer,
        length=Length(output_tokens),
        names=tuple(name or ()),
        adapters=tuple(lora or ()),
        app=AppSettings(keys=_keys(api_key_file, api_key_env), log_requests=not quiet),
        certificate=certificate,
        certificate_key=certificate_key,
        client_ca=client_ca,
        drain_timeout_s=drain_timeout,
        max_connections=max_connections,
    )
    beside = _Beside(kv_events, kv_events_maps, otlp, grpc, grpc_insecure)
    _serve(plan, settings, beside, record=record, force=force)


@dataclass(frozen=True, slots=True)
class _Beside:
    """What is served beside HTTP."""

    kv_events: str | None
    kv_events_maps: bool
    otlp: str | None
    grpc: str | None
    grpc_insecure: bool


def _serve(
    plan: "SimulationPlan", settings: "ServeSettings", beside: _Beside, *, record: Path | None, force: bool
) -> None:
    from hermes_core.cli import run_folder  # noqa: PLC0415
    from hermes_core.live.server import LiveServer  # noqa: PLC0415
    from hermes_core.record import FileSink, NullSink  # noqa: PLC0415

    if record is None:
        _run(LiveServer(plan, settings, NullSink()), beside)
        return
    run_folder.prepare(record, force=force, option="--record")
    run_folder.begin(record, plan)
    with FileSink(record / run_folder.RECORD) as sink:
        _run(LiveServer(plan, settings, sink, journal=record / "journal.jsonl"), beside)


def _run(server: "LiveServer", beside: _Beside) -> None:
    if beside.kv_events is not None:
        for endpoint in server.publish_kv_events(beside.kv_events, maps=beside.kv_events_maps):
            typer.echo(f"KV events at {endpoint}")
    if beside.otlp is not None:
        server.trace(beside.otlp)
    if beside.grpc is not None:
        address = server.serve_rpc(beside.grpc, insecure=beside.grpc_insecure, consent="--grpc-insecure")
        typer.echo(f"gRPC at {address}")
    server.run(lambda service, address: typer.echo(f"listening at {address}: {', '.join(service.catalogue.served)}"))


def _keys(file: Path | None, variable: str | None) -> tuple[str, ...]:
    """Return the API keys. Raises InputError when they are not where they were said to be."""
    if file is None and variable is None:
        return ()
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the keys in {file} cannot be read: {error}", remedy="One key a line.") from None
    else:
        text = os.environ.get(variable or "", "")
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not keys:
        where = f"the file {file}" if file is not None else f"the environment variable {variable}"
        raise InputError(f"{where} holds no key", remedy="Put one key a line there.")
    return keys


def _missing(error: ModuleNotFoundError) -> Exception:
    if error.name is None or error.name.partition(".")[0] == "hermes_core":
        return error
    return MissingExtraError(
        f"serving needs {error.name}, which is not installed: pip install 'hermes-core[cli,serve]'"
    )


def _configure_logging(form: LogFormat) -> None:
    """Send structured logs to stderr, one line each."""
    import structlog  # noqa: PLC0415

    from hermes_core.cli.logs import stderr_logger  # noqa: PLC0415

    renderer: Any = structlog.processors.JSONRenderer()
    if form is LogFormat.TEXT:
        renderer = structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=stderr_logger,
    )
