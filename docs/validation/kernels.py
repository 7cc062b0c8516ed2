# ruff: noqa: INP001, T201 - a script
"""Reads the constants of the roofline off measured operators, and says how far each curve is from what it was read off.

    python docs/validation/kernels.py

Needs the tables of aiconfigurator-core (`pip install 'hermes-hw[silicon]'`) and SciPy; no serving measurement is read.
Of vLLM's, SGLang's and TensorRT-LLM's kernels the fastest for each shape counts for products and attention (engines
choose; tables that hold launches from the host drop out by it), vLLM's for experts (tuned for every shape). Fixed times
and shares of bandwidth are found together, by a regression on the logarithm that is robust against outliers; shares of
FLOP/s are medians. On boards whose second-level cache holds what a benchmark repeats (GDDR6) only shapes beyond it, or
next to nothing, count.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from hermes_hw.devices import find_device
from hermes_hw.roofline.cost import gemm_compute_s
from scipy.optimize import least_squares

Array = np.ndarray
FRAMEWORKS = ("vllm", "sglang", "trtllm")
HEAD = 128
GDDR_LEAST, GDDR_MOST = 0.02, 1.5
"""Of the cache: what a shape moves when it is next to nothing, and when it is more than stays there."""
SMALL_BATCH, LARGE_BATCH = 64, 4096
EXPERT_ROWS = 128
MUCH_S = 100e-6
BEYOND_PEAK = 0.05
"""Share of its large shapes in which a table may be faster than the memory allows before it is left out."""
SAMPLE = 6000
WIDTH = {"bfloat16": 2.0, "fp8": 1.0, "fp8_block": 1.0, "nvfp4": 0.5625, "w4a8_mxfp4_mxfp8": 0.53125}
PEAK = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4", "w4a8_mxfp4_mxfp8": "fp4"}


@dataclass(frozen=True)
class Board:
    """A device with tables: its name here and there, and its second-level cache (vendor's architecture papers)."""

    name: str
    folder: str
    cache: float


FAMILIES: Mapping[str, Sequence[Board]] = {
    "hopper": (Board("h100-sxm", "h100_sxm", 50e6), Board("h200", "h200_sxm", 50e6)),
    "blackwell": (
        Board("b200", "b200_sxm", 126e6),
        Board("b300", "b300_sxm", 126e6),
        Board("gb200", "gb200", 126e6),
    ),
    "ampere": (Board("a100-sxm-80gb", "a100_sxm", 40e6),),
    "ada_server": (Board("l40s", "l40s", 96e6),),
    "blackwell_rtx": (Board("rtx-pro-6000", "rtx_pro_6000_server", 128e6),),
}
GDDR = ("ada_server", "blackwell_rtx")


def tables() -> Path:
    """Return the folder of the installed package's tables."""
    spec = importlib.util.find_spec("aiconfigurator_core")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("kernels.py needs the tables of aiconfigurator-core: pip install 'hermes-hw[silicon]'")
    return Path(next(iter(spec.submodule_search_locations))) / "systems" / "data"


def newest(board: Board, kind: str, name: str, framework: str) -> Path | None:
    """Return the file of the newest version of a framework's table; None when there is none."""

    def order(path: Path) -> list[int]:
        digits = "".join(letter if letter.isdigit() else " " for letter in path.parent.name)
        return [int(word) for word in digits.split()]

    found = sorted((tables() / board.folder / kind / framework).glob(f"*/{name}.parquet"), key=order)
    return found[-1] if found else None


def read(
    board: Board,
    kind: str,
    name: str,
    where: Mapping[str, Sequence[str]],
    keys: Sequence[str],
    frameworks: Sequence[str],
) -> dict[str, Array]:
    """Return columns of whole numbers `keys`, and `s`: the fastest seconds of each shape."""
    parts, seconds = [], []
    for framework in frameworks:
        path = newest(board, kind, name, framework)
        if path is None:
            continue
        have = set(pq.read_schema(path).names)
        table = pq.read_table(path, columns=[c for c in (*keys, *where, "latency") if c in have]).to_pydict()
        rows = np.ones(len(table["latency"]), bool)
        for column, values in where.items():
            rows &= np.isin(np.array(table[column], dtype=object).astype(str), values)
        columns = [np.array(table[c], np.int64) if c in have else np.zeros(len(rows), np.int64) for c in keys]
        parts.append(np.stack(columns, 1)[rows])
        seconds.append(np.array(table["latency"])[rows] * 1e-3)
    if not parts:
        return {}
    shapes, place = np.unique(np.concatenate(parts), axis=0, return_inverse=True)
    best = np.full(len(shapes), np.inf)
    np.minimum.at(best, place.ravel(), np.concatenate(seconds))
    return {**dict(zip(keys, shapes.T, strict=True)), "s": best}


@dataclass(frozen=True)
class Samples:
    """Shapes of a kind of operator on all boards of a family: what the curve is made of, and what was measured."""

    columns: Array
    memory_s: Array
    measured_s: Array

    def fit(self, curve: Callable[[Array, Array, Array], Array], start: Sequence[float]) -> tuple[Array, float]:
        """Return parameters of `curve` (fixed times in us, shares last) and the median error in per cent."""

        def residuals(p: Array) -> Array:
            return np.log(curve(p, self.columns, self.memory_s) / self.measured_s)

        found = least_squares(
            residuals, start, loss="soft_l1", f_scale=0.1, bounds=([0.0] * len(start), [200.0] * (len(start)))
        )
        return found.x, float(100 * np.median(np.abs(residuals(found.x))))


def gathered(family: str, per_board: Callable[[Board, float], tuple[Array, Array, Array] | None]) -> Samples | None:
    """Return the samples of all boards; `per_board` gives columns, bytes and seconds."""
    columns, memory, seconds = [], [], []
    for board in FAMILIES[family]:
        bandwidth = find_device(board.name).memory_bandwidth_bytes_per_s
        answer = per_board(board, bandwidth)
        if answer is None:
            continue
        rows, nbytes, measured = answer
        keep = np.ones(len(nbytes), bool)
        if family in GDDR:
            keep = (nbytes > GDDR_MOST * board.cache) | (nbytes < GDDR_LEAST * board.cache)
        columns.append(rows[keep])
        memory.append(nbytes[keep] / bandwidth)
        seconds.append(measured[keep])
    if not seconds or not sum(map(len, seconds)):
        return None
    return Samples(np.concatenate(columns), np.concatenate(memory), np.concatenate(seconds))


def products(family: str, formats: Sequence[str]) -> Samples | None:
    """Return small products: inner dimensions."""

    def one(board: Board, _: float) -> tuple[Array, Array, Array] | None:
        kept = []
        for form in formats:
            t = read(board, "gemm", "gemm_perf", {"gemm_dtype": (form,)}, ("m", "n", "k"), FRAMEWORKS)
            if not t or not len(t["s"]):
                continue
            use = (t["m"] <= SMALL_BATCH) & (np.minimum(t["n"], t["k"]) >= 512) & (np.maximum(t["n"], t["k"]) <= 20_000)  # noqa: PLR2004
            m, n, k, s = (t[name][use] for name in ("m", "n", "k", "s"))
            kept.append((k[:, None], n * k * WIDTH[form] + 2.0 * m * (n + k), s))
        return tuple(np.concatenate(part) for part in zip(*kept, strict=True)) if kept else None  # type: ignore[return-value]

    return gathered(family, one)


def decoding(family: str) -> Samples | None:
    """Return decode attention over 16-bit caches, heads of 128, but for tables that beat the memory's peak."""

    def one(board: Board, bandwidth: float) -> tuple[Array, Array, Array] | None:
        keys = ("num_heads", "num_key_value_heads", "batch_size", "head_dim", "window_size", "isl", "step")
        where = {"kv_cache_dtype": ("bfloat16",)}
        trusted = []
        for framework in FRAMEWORKS:
            t = read(board, "attention", "generation_attention_perf", where, keys, (framework,))
            _, nbytes, seconds = _cache_reads(t)
            much = nbytes > 4 * board.cache
            if np.mean(nbytes[much] / bandwidth > seconds[much]) < BEYOND_PEAK:
                trusted.append(framework)
        t = read(board, "attention", "generation_attention_perf", where, keys, trusted)
        return _cache_reads(t)

    return gathered(family, one)


def _cache_reads(t: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    kv = np.where(t["num_key_value_heads"] > 0, t["num_key_value_heads"], t["num_heads"])
    context = t["isl"] + t["step"]
    use = (t["window_size"] == 0) & (t["head_dim"] == HEAD) & (kv <= 8) & (t["batch_size"] <= 256) & (context <= 32_768)  # noqa: PLR2004
    return kv[use][:, None], (t["batch_size"] * context * kv * (4.0 * HEAD))[use], t["s"][use]


EXPERT_KEYS = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")


def experts(family: str, formats: Sequence[str]) -> Samples | None:
    """Return small batches of experts: experts of the model, and whether weights are narrow."""

    def one(board: Board, _: float) -> tuple[Array, Array, Array] | None:
        kept = []
        for group in [[form] for form in formats if "fp8" not in form or "mxfp" in form] + [["fp8", "fp8_block"]]:
            if not set(group) <= set(formats):
                continue
            where = {"moe_dtype": group, "distribution": ("balanced",)}
            t = read(board, "moe", "moe_perf", where, EXPERT_KEYS, ("vllm",))
            if not t or not len(t["s"]):
                continue
            tokens, hidden, inner, top, count, tensor, groups = (t[name] for name in EXPERT_KEYS)
            local, picks = count // groups, tokens * top / groups
            use = (tokens >= 8) & (tokens <= 128) & (picks >= local) & (count >= 8)  # noqa: PLR2004
            nbytes = np.minimum(local, picks) * (3.0 * hidden * inner / tensor * WIDTH[group[0]])
            narrow = np.full(use.sum(), WIDTH[group[0]] < 2)  # noqa: PLR2004
            kept.append((np.stack([count[use], narrow], 1), nbytes[use], t["s"][use]))
        return tuple(np.concatenate(part) for part in zip(*kept, strict=True)) if kept else None  # type: ignore[return-value]

    return gathered(family, one)


def flop_share(family: str, kind: str, formats: Sequence[str]) -> tuple[float, float, int] | None:
    """Return the median share of the peak that large shapes reach beyond the tile model, half its spread, and rows."""
    shares = []
    for board in FAMILIES[family]:
        device = find_device(board.name)
        for form in formats:
            peak = device.flops.get(PEAK[form])
            if peak:
                shares.append(
                    {"gemm": _of_products, "prefill": _of_prefill, "experts": _of_experts}[kind](board, form, peak)
                )
    found = np.concatenate(shares) if shares else np.zeros(0)
    if not len(found):
        return None
    low, middle, high = np.quantile(found, (0.25, 0.5, 0.75))
    return float(middle), float(high - low) / 2, len(found)


def _of_products(board: Board, form: str, peak: float) -> Array:
    units = find_device(board.name).compute_units
    t = read(board, "gemm", "gemm_perf", {"gemm_dtype": (form,)}, ("m", "n", "k"), FRAMEWORKS)
    if not t or not len(t["s"]):
        return np.zeros(0)
    use = (t["m"] >= LARGE_BATCH) & (np.minimum(t["n"], t["k"]) >= 1024) & (np.maximum(t["n"], t["k"]) <= 20_000)  # noqa: PLR2004
    chosen = np.flatnonzero(use)[:: max(1, use.sum() // SAMPLE)]
    ideal = [gemm_compute_s(t["m"][i : i + 1], int(t["n"][i]), int(t["k"][i]), peak, units)[0] for i in chosen]
    return np.array(ideal) / t["s"][chosen]


def _of_prefill(board: Board, form: str, peak: float) -> Array:
    keys = ("num_heads", "num_key_value_heads", "batch_size", "head_dim", "window_size", "isl", "step")
    t = read(board, "attention", "context_attention_perf", {"kv_cache_dtype": (form,)}, keys, FRAMEWORKS)
    flop = t["batch_size"] * t["num_heads"] * (2.0 * HEAD) * t["isl"].astype(float) ** 2
    use = (t["window_size"] == 0) & (t["step"] == 0) & (t["head_dim"] == HEAD) & (t["isl"] >= 2048) & (flop > 2e11)  # noqa: PLR2004
    return flop[use] / peak / t["s"][use]


def _of_experts(board: Board, form: str, peak: float) -> Array:
    where = {"moe_dtype": (form,), "distribution": ("balanced",)}
    t = read(board, "moe", "moe_perf", where, EXPERT_KEYS, ("vllm",))
    if not t or not len(t["s"]):
        return np.zeros(0)
    tokens, hidden, inner, top, count, tensor, groups = (t[name] for name in EXPERT_KEYS)
    local = count // groups
    rows = tokens * top / groups / local
    use = (rows >= 4 * EXPERT_ROWS) & (count >= 8)  # noqa: PLR2004
    padded = (rows + EXPERT_ROWS / 2) * local * (6.0 * hidden * inner / tensor)
    return padded[use] / peak / t["s"][use]


def quantize_s(family: str) -> tuple[float, float, int] | None:
    """Return the time of a small element-wise kernel: vLLM's cast of up to 64 rows of 4,096 to 8,192 numbers to fp8."""
    found = []
    for board in FAMILIES[family]:
        t = read(board, "quantize", "scale_matrix_perf", {}, ("m", "k"), ("vllm",))
        if t:
            found.append(t["s"][(t["m"] <= SMALL_BATCH) & (t["k"] >= 4096) & (t["k"] <= 8192)])  # noqa: PLR2004
    if not found:
        return None
    low, middle, high = np.quantile(np.concatenate(found), (0.25, 0.5, 0.75))
    return float(middle), float(high - low) / 2, sum(map(len, found))


def affine(p: Array, columns: Array, memory_s: Array) -> Array:
    """Fixed time, time for each element of the inner dimension (us, ns), and bytes at a share of the bandwidth."""
    return p[0] * 1e-6 + p[1] * 1e-9 * columns[:, 0] + memory_s / p[2]


def _saturated(samples: Samples) -> tuple[float, float, float]:
    """Return fixed time (us), share of the bandwidth and median error of attention.

    What a share is of shows where there is much to read, so it is the median there; most shapes are small, where the
    fixed time shows.
    """
    much, fixed_us, error = samples.memory_s > MUCH_S, 10.0, 0.0
    share = 0.8
    for _ in range(5):
        share = min(1.0, float(np.median(samples.memory_s[much] / (samples.measured_s[much] - fixed_us * 1e-6))))
        found, error = samples.fit(_after(share), (fixed_us,))
        fixed_us = float(found[0])
    return fixed_us, share, error


def _after(share: float) -> Callable[[Array, Array, Array], Array]:
    return lambda p, _, memory_s: p[0] * 1e-6 + memory_s / share


def of_experts(p: Array, columns: Array, memory_s: Array) -> Array:
    """Fixed time, time for each expert (us, ns), and bytes at a share for wide weights and one for narrow."""
    return p[0] * 1e-6 + p[1] * 1e-9 * columns[:, 0] + memory_s / np.where(columns[:, 1] > 0, p[3], p[2])


def lines(family: str) -> list[tuple[str, float, str, int, str]]:
    """Return `(constant, value, unit, rows, error)` of a family."""
    out: list[tuple[str, float, str, int, str]] = []

    def times(samples: Samples | None, curve: Any, start: Sequence[float], names: Sequence[tuple[str, str]]) -> None:
        if samples is not None:
            values, error = samples.fit(curve, start)
            for (name, unit), value in zip(names, values, strict=True):
                out.append((name, float(value), unit, len(samples.measured_s), f"{error:.1f}%"))

    names = [("gemm_s", "us"), ("depth_s", "ns"), ("memory", "")]
    times(products(family, ("bfloat16",)), affine, (4.0, 0.3, 0.8), names)
    narrow = [("narrow_gemm_s", "us"), ("narrow_depth_s", "ns"), ("(bandwidth)", "")]
    times(products(family, ("fp8",)), affine, (4.0, 0.3, 0.8), narrow)
    attention = decoding(family)
    if attention is not None:
        fixed_us, share, error = _saturated(attention)
        out.append(("attention_s", fixed_us, "us", len(attention.memory_s), f"{error:.1f}%"))
        out.append(("decode_attention", share, "", int((attention.memory_s > MUCH_S).sum()), ""))
    formats = ("bfloat16", "fp8", "fp8_block", "nvfp4", "w4a8_mxfp4_mxfp8")
    of_moe = [("experts_s", "us"), ("expert_s", "ns"), ("experts_memory", ""), ("quantized_experts_memory", "")]
    times(experts(family, formats), of_experts, (20.0, 50.0, 0.8, 0.8), of_moe)
    shares = (
        ("compute", "gemm", ("bfloat16",)),
        ("narrow_compute", "gemm", ("fp8", "fp8_block")),
        ("fp4_compute", "gemm", ("nvfp4",)),
        ("prefill_attention", "prefill", ("bfloat16",)),
        ("experts_compute", "experts", ("bfloat16",)),
        ("narrow_experts_compute", "experts", ("fp8_block", "nvfp4")),
    )
    found = [(name, flop_share(family, kind, forms), "") for name, kind, forms in shares]
    cast = quantize_s(family)
    found.append(("elementwise_s", (cast[0] * 1e6, cast[1] * 1e6, cast[2]) if cast else None, "us"))
    for name, answer, unit in found:
        if answer is not None:
            out.append((name, answer[0], unit, answer[2], f"+-{answer[1]:.2f}"))
    return out


def main() -> None:
    """Print every constant, how many rows it rests on and how well the curve follows them, beside what is shipped."""
    place = importlib.util.find_spec("hermes_hw")
    if place is None or not place.submodule_search_locations:
        raise SystemExit("hermes-hw is not installed")
    file = Path(next(iter(place.submodule_search_locations))) / "data" / "efficiency.json"
    shipped = json.loads(file.read_text())["families"]
    scale = {"us": 1e6, "ns": 1e9, "": 1.0}
    print("error: median over the rows, or half the distance of the quartiles of a share or time")
    for family, boards in FAMILIES.items():
        print(f"\n{family}: {', '.join(board.name for board in boards)}")
        print(f"{'':26s}{'measured':>10s}{'shipped':>10s}    {'rows':>7s} {'error':>8s}")
        for name, value, unit, rows, error in lines(family):
            known = f"{shipped[family][name] * scale[unit]:10.3g}" if name in shipped[family] else f"{'':10s}"
            print(f"{name:26s}{value:10.3g}{known} {unit:3s}{rows:7d} {error:>8s}")


if __name__ == "__main__":
    main()
