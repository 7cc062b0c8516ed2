"""`hermes hw serve|describe|probe|bench|conformance`: hardware services, from both ends."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from hermes_hw.cli.output import Json, print_json, print_table, table_of

if TYPE_CHECKING:
    from hermes_hw.client import Target
    from hermes_hw.conformance import Result

Address = Annotated[str, typer.Argument(help="unix:PATH or HOST:PORT of the service.")]
Command = Annotated[str, typer.Option(help="Command that starts it, in place of an address.")]
TlsCa = Annotated[Optional[Path], typer.Option(help="PEM file: authorities of the other side.")]  # noqa: UP045 - typer
TlsCertificate = Annotated[Optional[Path], typer.Option(help="PEM file: certificate of this side.")]  # noqa: UP045
TlsKey = Annotated[Optional[Path], typer.Option(help="PEM file: its private key.")]  # noqa: UP045
TokenFile = Annotated[Optional[Path], typer.Option(help="File with the token, readable by its owner only.")]  # noqa: UP045
TokenEnv = Annotated[Optional[str], typer.Option(help="Environment variable with the token.")]  # noqa: UP045
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow TCP without TLS.")]

_BENCH_SHAPES = 4096


def serve_command(
    device: Annotated[str, typer.Argument(help="Device of the catalogue.")],
    *,
    address: Annotated[str, typer.Option(help="unix:PATH or HOST:PORT (port 0: the system chooses).")],
    model: Annotated[str, typer.Option(help="roofline, measured, silicon or auto.")] = "roofline",
    tables: Annotated[Optional[Path], typer.Option(help="Tables of measurements.")] = None,  # noqa: UP045
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    token_env: TokenEnv = None,
    insecure: Insecure = False,
) -> None:
    """Serve a device by one of the built-in models, until Ctrl-C."""
    from hermes_core.rpc import RpcServer, ServerSecurity, parse_address, read_token  # noqa: PLC0415 - quick start

    from hermes_hw.server import registration  # noqa: PLC0415
    from hermes_hw.server.builtin import BuiltinService  # noqa: PLC0415
    from hermes_hw.server.run import log_to_stderr  # noqa: PLC0415

    log_to_stderr()
    token = read_token(file=token_file, variable=token_env)
    security = ServerSecurity(_tls(tls_ca, tls_certificate, tls_key), token, insecure, consent="--insecure")
    service = BuiltinService(device, model, tables)
    with RpcServer(parse_address(address), [registration(service)], security) as server:
        typer.echo(f"serving {service.describe().model} at {server.address}", err=True)
        server.serve_until_signalled()


def describe_command(
    address: Address = "",
    *,
    command: Command = "",
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    token_env: TokenEnv = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Show who a service is, what it prices, and what can be configured."""
    import dataclasses  # noqa: PLC0415

    from hermes_hw.client import Service  # noqa: PLC0415

    security = (tls_ca, tls_certificate, tls_key, token_file, token_env, insecure)
    with Service(_target(address, command, *security)) as service:
        found = service.description
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    table = table_of(found.title, "what", "value")
    for item in dataclasses.fields(found):
        value = getattr(found, item.name)
        if item.name == "operators":
            value = "\n".join(f"{kind}: {', '.join(support.dtypes)}" for kind, support in value.items())
        elif item.name == "config_schema":
            value = ", ".join(value.get("properties", {})) or "nothing to configure"
        elif isinstance(value, tuple):
            value = ", ".join(value)
        table.add_row(item.name, str(value))
    print_table(table)


def probe_command(
    address: Address = "",
    *,
    command: Command = "",
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    token_env: TokenEnv = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Ask whether a service is there, and price one question of each kind it knows."""
    from hermes_hw.conformance import Kit  # noqa: PLC0415

    kit = Kit(_target(address, command, tls_ca, tls_certificate, tls_key, token_file, token_env, insecure))
    try:
        rows = _probed(kit)
        title, launch_s = kit.description.title, kit.service.stats.launch_s
    finally:
        kit.close()
    if as_json:
        print_json({"service": title, "reached_s": launch_s, "prices": rows})
        return
    table = table_of(f"{title}, reached in {launch_s:.2f} s", "kind", "shape", "us")
    for row in rows:
        table.add_row(row["kind"], row["shape"], f"{row['latency_ps'] / 1e6:,.2f}" if row["latency_ps"] else "refused")
    print_table(table)


def bench_command(
    address: Address = "",
    *,
    command: Command = "",
    calls: Annotated[int, typer.Option(help="Calls of each size.", min=1)] = 50,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    token_env: TokenEnv = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Measure how long calls of 1, 256 and 4,096 questions take."""
    from hermes_hw.conformance import Kit  # noqa: PLC0415

    kit = Kit(_target(address, command, tls_ca, tls_certificate, tls_key, token_file, token_env, insecure))
    try:
        rows = _benched(kit, calls)
        title = kit.description.title
    finally:
        kit.close()
    if as_json:
        print_json({"service": title, "calls": rows})
        return
    table = table_of(title, "asked", "questions", "median ms", "p99 ms", "us each", "calls/s")
    for row in rows:
        each = row["median_s"] / row["questions"]
        figures = (f"{row['median_s'] * 1e3:.2f}", f"{row['p99_s'] * 1e3:.2f}", f"{each * 1e6:.2f}")
        table.add_row(row["asked"], f"{row['questions']:,}", *figures, f"{row['calls_per_s']:,.0f}")
    print_table(table)


def conformance_command(
    address: Address = "",
    *,
    command: Command = "",
    profile: Annotated[Optional[list[str]], typer.Option(help="core, step, table, energy, retrieval.")] = None,  # noqa: UP045
    case: Annotated[Optional[list[str]], typer.Option(help="Only this case, such as ES-03.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Seed of the shapes that are asked about.")] = 1,
    junit: Annotated[Optional[Path], typer.Option(help="Write JUnit XML.")] = None,  # noqa: UP045
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Write JSON.")] = None,  # noqa: UP045
    list_cases: Annotated[bool, typer.Option("--list", help="List the cases, and ask nobody.")] = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    token_env: TokenEnv = None,
    insecure: Insecure = False,
) -> None:
    """Check that a service does what the contract says. Exit codes: 0 conforms, 1 does not, 2 could not be reached."""
    from hermes_hw.conformance import CASES, Kit, case_named, run_cases  # noqa: PLC0415
    from hermes_hw.conformance.runner import conforms, write_json, write_junit  # noqa: PLC0415

    wanted = [case_named(name) for name in case] if case else [*CASES]
    wanted = [item for item in wanted if profile is None or item.profile in _known(profile)]
    if list_cases:
        for item in wanted:
            typer.echo(f"{item.name}  {item.profile:<9}  {item.title}")
        return
    kit = Kit(_target(address, command, tls_ca, tls_certificate, tls_key, token_file, token_env, insecure), seed)
    try:
        title = _reached(kit)
        results = run_cases(wanted, kit, _say)
    finally:
        kit.close()
    if junit is not None:
        write_junit(junit, results, title)
    if json_file is not None:
        write_json(json_file, results, title)
    _sum_up(title, results)
    if not conforms(results):
        raise typer.Exit(1)


def _reached(kit: Any) -> str:
    from hermes_core.api.errors import HermesError  # noqa: PLC0415

    from hermes_hw.client import ServiceError  # noqa: PLC0415

    try:
        return str(kit.description.title)
    except ServiceError as error:
        failed = HermesError(str(error))
        failed.exit_code = 2
        raise failed from None


def _say(result: "Result") -> None:
    reason = f": {result.reason}" if result.reason else ""
    typer.echo(f"{result.outcome.value:<7}  {result.case}  {result.title}{reason}")


def _sum_up(title: str, results: "list[Result]") -> None:
    from hermes_hw.conformance import Outcome  # noqa: PLC0415

    counts = (f"{sum(item.outcome is outcome for item in results)} {outcome.value}" for outcome in Outcome)
    typer.echo(f"{title}: {', '.join(counts)}")


def _known(profiles: list[str]) -> list[str]:
    from hermes_core.api.errors import InputError  # noqa: PLC0415

    from hermes_hw.conformance import PROFILES  # noqa: PLC0415

    for name in profiles:
        if name not in PROFILES:
            raise InputError(f"--profile {name!r} is unknown", remedy=f"Known: {', '.join(PROFILES)}.")
    return profiles


def _tls(ca: Path | None, certificate: Path | None, key: Path | None) -> Any:
    from hermes_core.rpc import TlsFiles  # noqa: PLC0415

    return TlsFiles(ca, certificate, key) if ca or certificate or key else None


def _target(
    address: str,
    command: str,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    token_file: Path | None,
    token_env: str | None,
    insecure: bool,  # noqa: FBT001 - options of a command line, in order
) -> "Target":
    from hermes_core.api.errors import InputError  # noqa: PLC0415
    from hermes_core.rpc import ChannelSecurity, read_token  # noqa: PLC0415

    from hermes_hw.client import Target  # noqa: PLC0415

    if bool(address) == bool(command):
        raise InputError("name one service: its address, or --command", remedy="As in unix:/run/chip.sock.")
    token = read_token(file=token_file, variable=token_env)
    security = ChannelSecurity(_tls(ca, certificate, key), token, insecure, consent="--insecure")
    name = address or shlex.split(command)[-1]
    return Target(name, command=shlex.split(command), address=address, security=security, patience_s=3.0)


def _probed(kit: Any) -> list[dict[str, Any]]:
    rows = []
    for asker in kit.askers:
        session = asker.open()
        if asker.name == "operators":
            drawn = {place: (place, dims) for place, dims in asker.draw(64 * len(kit.keys))}
            questions = [drawn[place] for place in sorted(drawn)]
            shapes = [(kit.keys[place].kind, _shape(kit.keys[place].dimensions, dims)) for place, dims in questions]
        else:
            questions = asker.draw(3)
            shapes = [
                ("step", f"{len(item.new_tokens)} sequences, {sum(item.new_tokens)} tokens") for item in questions
            ]
        answer = kit.estimate(asker, session, questions)
        kit.close_session(session)
        refused = {error.index for error in answer.errors}
        rows += [
            {"kind": kind, "shape": shape, "latency_ps": None if place in refused else answer.latency_ps[place]}
            for place, (kind, shape) in enumerate(shapes)
        ]
    return rows


def _shape(names: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    return ", ".join(f"{name} {size:,}" for name, size in zip(names, sizes, strict=True))


def _benched(kit: Any, calls: int) -> list[dict[str, Any]]:
    rows = []
    clock = kit.service.clock
    most = kit.description.max_queries_per_call or _BENCH_SHAPES
    for asker in kit.askers:
        session, questions = asker.open(), asker.draw(min(most, _BENCH_SHAPES))
        for count in (1, 256, _BENCH_SHAPES):
            request = asker.request(session, questions[: min(count, most)])
            if request.ByteSize() > (kit.description.max_request_bytes or 3 << 20):
                continue
            times = []
            for _ in range(calls):
                began = clock.now_s()
                kit.call("Estimate", request)
                times.append(clock.now_s() - began)
            times.sort()
            rows.append(
                {
                    "asked": asker.name,
                    "questions": min(count, most),
                    "median_s": times[len(times) // 2],
                    "p99_s": times[min(len(times) - 1, int(0.99 * len(times)))],
                    "calls_per_s": len(times) / sum(times),
                }
            )
        kit.close_session(session)
    return rows
