"""The command `hermes calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from hermes_analysis.cli import Force, told


def calibrate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run records, tables of requests (CSV), results of vllm bench serve, GuideLLM or AIPerf.",
        ),
    ],
    *,
    model: Annotated[str, typer.Option(help="Model that was served, by its name in the catalogue.")],
    device: Annotated[str, typer.Option(help="Device that it was served on.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write the calibration.")],
    tp: Annotated[int, typer.Option(min=1, help="Tensor-parallel degree.")] = 1,
    pp: Annotated[int, typer.Option(min=1, help="Pipeline-parallel degree.")] = 1,
    ep: Annotated[int, typer.Option(min=1, help="Expert-parallel degree.")] = 1,
    clients: Annotated[int, typer.Option(min=1, help="Equal engines that shared the requests.")] = 1,
    cached_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of every prompt that the prefix cache had.")
    ] = 0.0,
    quantization: Annotated[
        str | None, typer.Option(help="Format of the weights, where it is not the model's.")
    ] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Format of the KV cache, where it is not auto.")] = None,
    engine: Annotated[str, typer.Option(help="Preset of the engine.")] = "vllm",
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the calibration on standard output too.")] = False,
) -> None:
    """Fit prices to observed runs, into a file that the hardware model `fitted` reads."""
    from hermes_analysis.calibrate.fitting import calibrated, show  # noqa: PLC0415 - only what runs is loaded
    from hermes_analysis.output import check_free, json_text, replacing  # noqa: PLC0415

    with told():
        deployment = {
            "model": model,
            "device": device,
            "tensor_parallel": tp,
            "pipeline_parallel": pp,
            "expert_parallel": ep,
            "weight_dtype": quantization,
            "kv_dtype": kv_dtype,
            "engine": engine,
        }
        check_free(out, force=force)
        document = calibrated(runs, deployment, clients=clients, cached_share=cached_share)
        with replacing(out) as stream:
            stream.write(json_text(document).encode())
        if as_json:
            typer.echo(json_text(document), nl=False)
        else:
            show(document, out)
