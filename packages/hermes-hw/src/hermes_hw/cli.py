"""`hermes hw`: what is in the catalogues, and what a step costs."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hermes_core.api.hardware import CompiledDeployment, Deployment, OperatorPrice, StepShape

app = typer.Typer(name="hw", help="Devices, models and the price of a step.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def hw() -> None:
    """Devices, models and the price of a step."""


@app.command("list")
def list_command(*, as_json: Json = False) -> None:
    """List the devices and models of the catalogues."""
    from hermes_hw.devices import device_names, find_device  # noqa: PLC0415 - keeps the command line quick
    from hermes_hw.models import architecture_from_config, find_model, model_names  # noqa: PLC0415

    devices = [find_device(name) for name in device_names()]
    models = [architecture_from_config(name, find_model(name).config) for name in model_names()]
    if as_json:
        _print_json(
            {
                "devices": [_device_row(device) for device in devices],
                "models": [
                    {
                        "name": model.name,
                        "parameters": model.parameters,
                        "active_parameters": model.active_parameters,
                        "layers": model.layers,
                        "max_model_len": model.max_model_len,
                    }
                    for model in models
                ],
            }
        )
        return
    table = _table("Devices", "name", "memory GB", "bandwidth TB/s", "bf16 TFLOP/s", "TDP W", "USD/h")
    for device in devices:
        row = _device_row(device)
        table.add_row(
            device.name,
            f"{device.memory_bytes / 1e9:.1f}",
            f"{device.memory_bandwidth_bytes_per_s / 1e12:.3f}",
            f"{row['flops'].get('bf16', 0) / 1e12:,.0f}",
            f"{device.tdp_w:.0f}",
            f"{device.price_usd_per_h:.2f}",
        )
    _print(table)
    table = _table("Models", "name", "parameters G", "active G", "layers", "longest context")
    for model in models:
        table.add_row(
            model.name,
            f"{model.parameters / 1e9:.2f}",
            f"{model.active_parameters / 1e9:.2f}",
            str(model.layers),
            f"{model.max_model_len:,}",
        )
    _print(table)


@app.command()
def show(name: Annotated[str, typer.Argument(help="Device or model.")], *, as_json: Json = False) -> None:
    """Show the card of a device or a model: its figures, their sources, what is not represented."""
    from hermes_hw.cards import card_named  # noqa: PLC0415

    card = card_named(name)
    if as_json:
        _print_json(card)
        return
    table = _table(f"{card['kind']} {card['name']}", "figure", "value", "source")
    for figure in card["figures"]:
        table.add_row(figure["name"], _shown(figure["value"]), figure.get("source", ""))
    _print(table)
    for note in card["notes"]:
        typer.echo(f"* {note}")


@app.command()
def price(
    *,
    model: Annotated[str, typer.Option(help="Model of the catalogue, or the path of a config.json.")],
    device: Annotated[str, typer.Option(help="Device of the catalogue.")],
    batch: Annotated[int, typer.Option(help="Sequences that decode.", min=0)],
    context: Annotated[int, typer.Option(help="Context of each, in tokens.", min=0)] = 1024,
    prompt: Annotated[int, typer.Option(help="New prompt tokens in the same step.", min=0)] = 0,
    tp: Annotated[int, typer.Option(help="Tensor-parallel devices.", min=1)] = 1,
    weights: Annotated[Optional[str], typer.Option(help="Format of the weights.")] = None,  # noqa: UP045 - typer
    kv: Annotated[Optional[str], typer.Option(help="Format of the KV cache.")] = None,  # noqa: UP045
    prices: Annotated[str, typer.Option("--source", help="Hardware model: auto or roofline.")] = "auto",
    as_json: Json = False,
) -> None:
    """Price one step, operator by operator."""
    from hermes_core.api.errors import InputError  # noqa: PLC0415
    from hermes_core.api.hardware import Deployment  # noqa: PLC0415

    from hermes_hw.auto import AutoModel  # noqa: PLC0415
    from hermes_hw.roofline import RooflineModel  # noqa: PLC0415

    known: dict[str, Any] = {"auto": AutoModel, "roofline": RooflineModel}
    if prices not in known:
        raise InputError(f"--source {prices!r} is unknown", remedy=f"Known: {', '.join(known)}.")
    if batch == 0 and prompt == 0:
        raise InputError("a step of nothing has no price", remedy="Give --batch or --prompt.")
    deployment = Deployment(
        model=model,
        device=device,
        model_config=_config_file(model),
        tensor_parallel=tp,
        weight_dtype=weights,
        kv_dtype=kv,
        max_seqs=max(batch, 1),
    )
    hardware = known[prices]()
    compiled = hardware.compile(deployment)
    shape = _shape(batch, context, prompt, compiled.steps.window)
    result = _priced(compiled, deployment, shape, hardware.breakdown(deployment, shape))
    if as_json:
        _print_json(result)
    else:
        _print_price(result)


def _shape(batch: int, context: int, prompt: int, window: int) -> "StepShape":
    from hermes_core.api.hardware import StepShape  # noqa: PLC0415

    reach = min(prompt, window) if window else prompt
    return StepShape(
        decode_seqs=batch,
        decode_context=batch * context,
        decode_windowed=batch * (min(context, window) if window else context),
        prefill_seqs=min(prompt, 1),
        prefill_tokens=prompt,
        prefill_pairs2=prompt * (prompt + 1),
        prefill_windowed_pairs2=reach * (reach + 1) + 2 * (prompt - reach) * reach,
        prefill_context=prompt,
        sampled_seqs=batch + min(prompt, 1),
    )


def _priced(
    compiled: "CompiledDeployment",
    deployment: "Deployment",
    shape: "StepShape",
    operators: "Sequence[OperatorPrice]",
) -> dict[str, Any]:
    """Return what the command shows, as plain values."""
    duration_fs, energy_nj = compiled.steps.step(shape)
    duration_s = duration_fs * 1e-15
    by_bound: dict[str, float] = {}
    for operator in operators:
        by_bound[operator.bound] = by_bound.get(operator.bound, 0.0) + operator.duration_s
    memory = compiled.memory
    room = memory.device_bytes * deployment.memory_utilization - memory.weights_bytes - memory.activation_bytes
    energy_j = energy_nj * 1e-9 + compiled.idle_power_w * duration_s
    return {
        "model": deployment.model,
        "device": deployment.device,
        "tensor_parallel": deployment.tensor_parallel,
        "duration_s": duration_s,
        "energy_j": energy_j,
        "power_w": energy_j / duration_s,
        "bound": max(by_bound, key=lambda bound: by_bound[bound]),
        "decode_tokens_per_s": shape.decode_seqs / duration_s,
        "usd_per_h": compiled.price_usd_per_h,
        "weights_bytes": memory.weights_bytes,
        "kv_bytes_per_token": memory.kv_bytes_per_token,
        "kv_tokens": int(room / memory.kv_bytes_per_token),
        "sources": dict(compiled.source_share),
        "operators": [
            {
                "operator": item.operator,
                "kind": item.kind,
                "count": item.count,
                "duration_s": item.duration_s,
                "flop": item.flop,
                "bytes": item.bytes,
                "bound": item.bound,
                "source": item.source,
            }
            for item in operators
        ],
        "notes": list(compiled.notes),
    }


def _print_price(result: "Mapping[str, Any]") -> None:
    total_s = result["duration_s"]
    title = f"A step of {result['model']} on {result['tensor_parallel']} x {result['device']}"
    table = _table(title, "operator", "runs", "us", "share", "GFLOP", "MB", "bound", "source")
    for item in result["operators"]:
        table.add_row(
            item["operator"],
            str(item["count"]),
            f"{item['duration_s'] * 1e6:,.1f}",
            f"{100 * item['duration_s'] / total_s:.1f}%",
            f"{item['flop'] / 1e9:,.2f}",
            f"{item['bytes'] / 1e6:,.1f}",
            item["bound"],
            item["source"],
        )
    table.add_section()
    flop = sum(item["flop"] for item in result["operators"])
    moved = sum(item["bytes"] for item in result["operators"])
    share = ", ".join(f"{100 * part:.0f}% {source}" for source, part in result["sources"].items())
    total = (f"{total_s * 1e6:,.1f}", "100.0%", f"{flop / 1e9:,.2f}", f"{moved / 1e6:,.1f}", result["bound"], share)
    table.add_row("step", "1", *total)
    _print(table)
    typer.echo(
        f"{result['decode_tokens_per_s']:,.0f} output tokens/s, "
        f"{result['energy_j']:.2f} J ({result['power_w']:,.0f} W), "
        f"{result['usd_per_h']:.2f} USD/h, room for {result['kv_tokens']:,} tokens of KV cache"
    )
    for note in result["notes"]:
        typer.echo(f"* {note}")


def _config_file(model: str) -> "Mapping[str, Any] | None":
    """Return the configuration when `model` is the path of a JSON file, else None."""
    if not model.endswith(".json"):
        return None
    from pathlib import Path  # noqa: PLC0415

    from hermes_core.api.errors import InputError, Place  # noqa: PLC0415

    try:
        content = json.loads(Path(model).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {model}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not JSON: {error}", place=Place(file=model)) from None
    if not isinstance(content, dict):
        raise InputError("expected a JSON object", place=Place(file=model))
    return content


def _device_row(device: Any) -> dict[str, Any]:
    return {
        "name": device.name,
        "vendor": device.vendor,
        "memory_bytes": device.memory_bytes,
        "memory_bandwidth_bytes_per_s": device.memory_bandwidth_bytes_per_s,
        "flops": dict(device.flops),
        "tdp_w": device.tdp_w,
        "idle_w": device.idle_w,
        "price_usd_per_h": device.price_usd_per_h,
        "price_date": device.price_date,
    }


def _shown(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        text = column in {"bound", "source", "value"} or i == 0
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    return table


def _print(table: Any) -> None:
    from rich.console import Console  # noqa: PLC0415

    console = Console()
    # A table cut to 80 columns in a pipe would lose figures.
    Console(width=console.width if console.is_terminal else 140).print(table)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
