"""`hermes hw price`: what a step costs, operator by operator."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from hermes_hw.cli.output import Json, print_json, print_table, rent, table_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hermes_core.api.hardware import CompiledDeployment, Deployment, OperatorPrice, StepShape


def price(
    *,
    device: Annotated[str, typer.Option(help="Device of the catalogue; that of the tables, where none is given.")] = "",
    model: Annotated[str, typer.Option(help="Model of the catalogue, or the path of a config.json.")] = "",
    batch: Annotated[int, typer.Option(help="Sequences that decode.", min=0)] = 0,
    context: Annotated[int, typer.Option(help="Context of each, in tokens.", min=0)] = 1024,
    prompt: Annotated[int, typer.Option(help="New prompt tokens in the same step.", min=0)] = 0,
    tp: Annotated[int, typer.Option(help="Tensor-parallel devices.", min=1)] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline stages.", min=1)] = 1,
    dp: Annotated[int, typer.Option(help="Data-parallel ranks.", min=1)] = 1,
    ep: Annotated[int, typer.Option(help="Groups that hold different experts.", min=1)] = 1,
    weights: Annotated[Optional[str], typer.Option(help="Format of the weights.")] = None,  # noqa: UP045 - typer
    kv: Annotated[Optional[str], typer.Option(help="Format of the KV cache.")] = None,  # noqa: UP045
    prices: Annotated[str, typer.Option("--source", help="Hardware model, such as auto or roofline.")] = "auto",
    tables: Annotated[Optional[Path], typer.Option(help="Tables of measurements.")] = None,  # noqa: UP045
    plot: Annotated[Optional[Path], typer.Option(help="Write a roofline plot (SVG).")] = None,  # noqa: UP045
    stage: Annotated[str, typer.Option(help="Price a batch of this stage instead of a step: embed, retrieve.")] = "",
    items: Annotated[int, typer.Option(help="With --stage: texts, images or queries of the batch.", min=1)] = 1,
    tokens: Annotated[int, typer.Option(help="With --stage: tokens, or results, of all of them.", min=0)] = 0,
    pairs: Annotated[Optional[int], typer.Option(help="With --stage: sum of squared lengths.")] = None,  # noqa: UP045
    option: Annotated[Optional[list[str]], typer.Option(help="Of prices or stage: name=value.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Price one step, operator by operator; with --stage a batch of another stage."""
    from hermes_core.api.errors import InputError  # noqa: PLC0415 - keeps the command line quick
    from hermes_core.api.hardware import Deployment  # noqa: PLC0415

    from hermes_hw.cli.stage import options_of, price_stage  # noqa: PLC0415

    options = options_of(option or ())
    device = device or _device_of(tables)
    if stage:
        from hermes_core.api.stages import StageDeployment  # noqa: PLC0415

        job = StageDeployment(
            stage,
            device,
            devices=tp,
            model=model or None,
            model_config=_config_file(model),
            weight_dtype=weights,
            options=options,
        )
        price_stage(job, items, tokens, pairs, as_json=as_json)
        return
    if not model:
        raise InputError("a step needs a model", remedy="Give --model, or --stage for another stage.")
    _refuse_encoder(model)
    if batch == 0 and prompt == 0:
        raise InputError("a step of nothing has no price", remedy="Give --batch or --prompt.")
    max_seqs, max_batched_tokens = _engine_limits(device, batch, batch + prompt)
    deployment = Deployment(
        model=model,
        device=device,
        model_config=_config_file(model),
        tensor_parallel=tp,
        pipeline_parallel=pp,
        data_parallel=dp,
        expert_parallel=ep,
        weight_dtype=weights,
        kv_dtype=kv,
        max_seqs=max_seqs,
        max_batched_tokens=max_batched_tokens,
        options={**options, "tables": str(tables)} if tables else options,
    )
    hardware = _hardware_model(prices)
    with _services_named():
        compiled = hardware.compile(deployment)
    shape = _shape(batch, context, prompt, compiled.steps.window)
    result = _priced(compiled, deployment, shape, hardware.breakdown(deployment, shape))
    if plot:
        _write_plot(plot, result, compiled)
    if as_json:
        print_json(result)
    else:
        _print_price(result)


@contextmanager
def _services_named() -> "Iterator[None]":
    """Say of a device that the catalogue does not have how the service is named that may know it."""
    from hermes_core.api.errors import InputError, UnknownNameError  # noqa: PLC0415

    way = '--source remote --option address=unix:PATH, or --option \'command=["PROGRAM", "ARGUMENT"]\''
    try:
        yield
    except UnknownNameError as error:
        if error.kind != "device":
            raise
        remedy = f"{error.remedy} hermes hw list has all. One that only a hardware service knows: {way}."
        raise InputError(error.problem, place=error.place, remedy=remedy) from None


def _refuse_encoder(model: str) -> None:
    from hermes_core.api.errors import InputError  # noqa: PLC0415

    from hermes_hw.stages.encoders import is_encoder  # noqa: PLC0415

    if is_encoder(model):
        raise InputError(
            f"{model} is an encoder: it has no steps",
            remedy=f"Price a batch of texts: --stage embed --model {model} --items 8 --tokens 2048.",
        )


def _device_of(tables: Path | None) -> str:
    """Return the device that tables say they were measured on."""
    from hermes_core.api.errors import InputError  # noqa: PLC0415

    from hermes_hw.tables.model import measured_device  # noqa: PLC0415

    found = measured_device(tables) if tables else None
    if found is None:
        what = f"{tables} does not say on which device it was measured" if tables else "a step needs a device"
        raise InputError(what, remedy="Give --device NAME; hermes hw list has the catalogue's.")
    return found[0]


def _engine_limits(device: str, seqs: int, tokens: int) -> tuple[int, int]:
    """Return the most sequences and tokens of a step, by which engines reserve working memory.

    Those of vLLM 0.33, or what is asked for. Its defaults (`EngineArgs.get_batch_defaults`) go by the memory of a
    device: `hermes explain` names the same ones, and so the same room for KV.
    """
    from hermes_core.api.errors import InputError  # noqa: PLC0415

    from hermes_hw.devices import find_device  # noqa: PLC0415

    try:
        memory, name = find_device(device).memory_bytes, find_device(device).name
    except InputError:  # one that only the tables of measurements know; they refuse what they do not
        memory, name = 0, device
    large = memory >= 70 * 2**30 and not name.startswith("a100")
    budget = (16_384 if memory >= 160 * 2**30 else 8192) if large else 2048
    return max(1024 if large else 256, seqs), max(budget, tokens)


def _kv_tokens(compiled: "CompiledDeployment", deployment: "Deployment") -> int:
    """Return how many tokens fit the KV cache: whole blocks, of the layers that keep all tokens where others do not."""
    memory, block = compiled.memory, deployment.block_size_tokens
    usable = int(memory.device_bytes * deployment.memory_utilization)
    each = sum(group.bytes_per_token for group in memory.kv_groups if not group.window) or memory.kv_bytes_per_token
    return int((usable - memory.weights_bytes - memory.activation_bytes) / (each * block)) * block


def _hardware_model(name: str) -> Any:
    from importlib.metadata import entry_points  # noqa: PLC0415

    from hermes_core.api.errors import InputError  # noqa: PLC0415
    from hermes_core.api.hardware import HARDWARE_MODELS  # noqa: PLC0415

    known = {entry.name: entry for entry in entry_points(group=HARDWARE_MODELS)}
    if name not in known:
        raise InputError(f"--source {name!r} is unknown", remedy=f"Known: {', '.join(sorted(known))}.")
    return known[name].load()()


def _shape(batch: int, context: int, prompt: int, window: int) -> "StepShape":
    from hermes_hw.compiler import mixed_shape  # noqa: PLC0415

    return mixed_shape(batch, context, prompt, window)


def _write_plot(path: Path, result: "Mapping[str, Any]", compiled: "CompiledDeployment") -> None:
    from hermes_core.api.errors import OutputError  # noqa: PLC0415

    from hermes_hw.devices import find_device  # noqa: PLC0415
    from hermes_hw.plot import roofline_svg  # noqa: PLC0415

    device = find_device(compiled.deployment.device, compiled.deployment.device_spec)
    title = f"A step of {result['model']} on {result['tensor_parallel']} x {device.name}"
    svg = roofline_svg(title, result["operators"], device.memory_bandwidth_bytes_per_s, device.flops)
    try:
        path.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


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
    by_source: dict[str, float] = {}
    for operator in operators:
        by_bound[operator.bound] = by_bound.get(operator.bound, 0.0) + operator.duration_s
        by_source[operator.source] = by_source.get(operator.source, 0.0) + operator.duration_s
    whole_s = sum(by_source.values()) or 1.0
    memory = compiled.memory
    room = _kv_tokens(compiled, deployment)
    notes = list(compiled.notes)
    tokens = shape.decode_context + shape.prefill_context
    if tokens > room:
        notes.append(f"No engine runs this step: {tokens:,} tokens of KV do not fit the memory.")
    longest = max(shape.decode_context // max(1, shape.decode_seqs), shape.prefill_context)
    if longest > compiled.max_model_len:
        notes.append(f"A context of {longest:,} tokens is longer than the model's {compiled.max_model_len:,}.")
    idle_w = compiled.idle_power_w / deployment.data_parallel
    energy_j = energy_nj * 1e-9 + idle_w * duration_s
    return {
        "model": deployment.model,
        "device": deployment.device,
        "tensor_parallel": deployment.tensor_parallel,
        "pipeline_parallel": deployment.pipeline_parallel,
        "data_parallel": deployment.data_parallel,
        "expert_parallel": deployment.expert_parallel,
        "duration_s": duration_s,
        "energy_j": energy_j,
        "power_w": energy_j / duration_s,
        "bound": max(by_bound, key=lambda bound: by_bound[bound]),
        "prompt_tokens_per_s": shape.prefill_tokens / duration_s,
        "decode_tokens_per_s": shape.decode_seqs / duration_s,
        "usd_per_h": compiled.price_usd_per_h,
        "weights_bytes": memory.weights_bytes,
        "kv_bytes_per_token": memory.kv_bytes_per_token,
        "kv_tokens": room,
        "sources": {name: seconds / whole_s for name, seconds in by_source.items() if seconds},
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
        "notes": notes,
    }


def _print_price(result: "Mapping[str, Any]") -> None:
    total_s = result["duration_s"]
    degrees = ", ".join(
        f"{name} {result[key]}"
        for name, key in (("pp", "pipeline_parallel"), ("dp", "data_parallel"), ("ep", "expert_parallel"))
        if result[key] > 1
    )
    title = f"A step of {result['model']} on {result['tensor_parallel']} x {result['device']}"
    table = table_of(
        f"{title} ({degrees})" if degrees else title,
        *("operator", "runs", "us", "share", "GFLOP", "MB", "bound", "source"),
    )
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
    print_table(table)
    rates = {"prompt": result["prompt_tokens_per_s"], "output": result["decode_tokens_per_s"]}
    parts = [f"{rate:,.0f} {what} tokens/s" for what, rate in rates.items() if rate]
    parts += [f"{result['energy_j']:.2f} J ({result['power_w']:,.0f} W)", rent(result["usd_per_h"], result["device"])]
    if result["kv_bytes_per_token"] > 1:  # a byte stands for models that keep no cache
        parts.append(f"room for {result['kv_tokens']:,} tokens of KV cache")
    typer.echo(", ".join(parts))
    for note in result["notes"]:
        typer.echo(f"* {note}")


def _config_file(model: str) -> "Mapping[str, Any] | None":
    """Return the configuration when `model` is the path of a JSON file, else None."""
    if not model.endswith(".json"):
        return None
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
