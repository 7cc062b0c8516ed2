"""The commands of `hermes workload` that speak to others: send, serve."""

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from hermes_workload.cli import (
    Force,
    Form,
    Rate,
    RateScale,
    Requests,
    Seed,
    SkipBad,
    What,
    open_what,
    print_notes,
    print_table,
    told,
)


def send(
    what: What,
    *,
    url: Annotated[str, typer.Option(help="Address of the endpoint, without /v1.")],
    model: Annotated[str, typer.Option(help="Model that the endpoint serves.")],
    out: Annotated[Path, typer.Option(help="Where to: FILE.csv, or with --device a folder for hermes validate.")],
    device: Annotated[Optional[str], typer.Option(help="What serves, as in a scenario: h100-sxm.")] = None,  # noqa: UP045
    tp: Annotated[int, typer.Option(help="Tensor parallel degree of what serves.", min=1)] = 1,
    engine: Annotated[str, typer.Option(help="Engine that serves: vllm, sglang, tensorrt_llm.")] = "vllm",
    engine_version: Annotated[Optional[str], typer.Option(help="Its version.")] = None,  # noqa: UP045
    api_key_env: Annotated[Optional[str], typer.Option(help="Environment variable with the key.")] = None,  # noqa: UP045 - typer
    timeout: Annotated[float, typer.Option(help="Seconds until a request has failed.", min=0)] = 600,
    speed: Annotated[float, typer.Option(help="2 replays twice as fast.", min=1e-6)] = 1.0,
    stop_early: Annotated[bool, typer.Option("--stop-early", help="Let the model end before the length.")] = False,
    form: Form = None,
    skip_bad: SkipBad = False,
    requests: Requests = None,
    rate: Rate = None,
    rate_scale: RateScale = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Send a workload to a live OpenAI-compatible endpoint, and measure every request."""
    from hermes_workload.errors import WorkloadError  # noqa: PLC0415 - keeps the command line quick
    from hermes_workload.live import Target, lateness_note, write_measured  # noqa: PLC0415
    from hermes_workload.live import send as send_to  # noqa: PLC0415
    from hermes_workload.measured import Server, write_experiment  # noqa: PLC0415

    with told():
        key = None if api_key_env is None else os.environ.get(api_key_env)
        if api_key_env is not None and not key:
            raise WorkloadError(f"the environment variable {api_key_env} is not set", remedy="set it to the key")
        if out.exists() and not force:
            raise WorkloadError("there is such a file already", file=str(out), remedy="give another name, or --force")
        if (out.suffix == ".csv") == (device is not None):
            raise WorkloadError(
                "the name and --device do not fit together",
                file=str(out),
                remedy="write --out FILE.csv, or --out FOLDER --device h100-sxm for an experiment",
            )
        source = open_what(
            what,
            seed,
            format=form,
            skip_bad=skip_bad or None,
            requests=requests,
            rate_per_s=rate,
            rate_scale=rate_scale,
        )
        measured = send_to(source, Target(url, model, key, timeout, not stop_early, speed), seed)
        if device is None:
            write_measured(measured, out, force=force)
        else:
            write_experiment(measured, Server(model, device, tp, engine, engine_version), out, force=force)
    failed = [one for one in measured if one.error]
    done = [one for one in measured if not one.error]
    rows = [("requests", f"{len(measured):,}"), ("failed", f"{len(failed):,}")]
    for name, values in (("TTFT", [one.ttft_s for one in done]), ("end to end", [one.e2e_s for one in done])):
        known = sorted(value for value in values if value is not None)
        if known:
            p99 = known[min(int(0.99 * len(known)), len(known) - 1)]
            rows.append((f"{name}, p50 and p99", f"{known[len(known) // 2] * 1e3:.1f} ms, {p99 * 1e3:.1f} ms"))
    print_table(f"{what} sent to {url}", ("", ""), rows)
    print_notes(source)
    if (note := lateness_note(measured)) is not None:
        typer.echo(f"note: {note}", err=True)
    if failed:
        typer.echo(f"note: the first that failed, request {failed[0].request_id}: {failed[0].error}", err=True)
        raise typer.Exit(1)


def serve(
    what: What,
    *,
    address: Annotated[str, typer.Option(help="unix:/path or localhost:PORT.")] = "localhost:50061",
    form: Form = None,
    skip_bad: SkipBad = False,
    requests: Requests = None,
    rate: Rate = None,
    seed: Seed = 0,
) -> None:
    """Serve a workload over gRPC (hermes.workload.v1), until stopped."""
    from hermes_workload.opening import section_of  # noqa: PLC0415
    from hermes_workload.registry import open_workload  # noqa: PLC0415
    from hermes_workload.service import start_server  # noqa: PLC0415

    options = {"format": form, "skip_bad": skip_bad or None, "requests": requests, "rate_per_s": rate}
    with told():
        server = start_server(open_workload, section_of(what, options), seed, address)
    typer.echo(f"serving {what} at {address}; stop with Ctrl-C", err=True)
    try:
        server.wait_for_termination()
    except KeyboardInterrupt:
        server.stop(grace=1).wait()
