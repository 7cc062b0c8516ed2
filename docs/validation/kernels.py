# ruff: noqa: INP001, T201 - a script
"""Reads the constants of the roofline off measured operators, and says how far each curve is from what it was read off.

    python docs/validation/kernels.py

Needs the tables of aiconfigurator-core (`pip install 'hermes-hw[silicon]'`) and SciPy; no serving measurement is read.
Of vLLM's, SGLang's and TensorRT-LLM's kernels the fastest for each shape counts for products and attention (engines
choose; tables that hold launches from the host drop out by it), vLLM's for experts (tuned for every shape). Fixed times
and shares of bandwidth are found together, by a regression on the logarithm that is robust against outliers, and all
constants of experts by another, in which each format weighs alike; other shares of FLOP/s are medians. On boards whose
second-level cache holds what a benchmark repeats (GDDR6) only shapes beyond it, or next to nothing, count.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow.parquet as pq
from hermes_hw.devices import find_device
from hermes_hw.roofline.cost import gemm_compute_s
from scipy.optimize import least_squares

Array = np.ndarray
Line: TypeAlias = tuple[str, float, str, int, str]
"""A constant, its value, its unit, the rows that it rests on, how far they are from it."""
FRAMEWORKS = ("vllm", "sglang", "trtllm")
HEAD = 128
GDDR_LEAST, GDDR_MOST = 0.02, 1.5
"""Of the cache: what a shape moves when it is next to nothing, and when it is more than stays there."""
SMALL_BATCH, LARGE_BATCH = 64, 4096
EXPERT_TILES = ((8, 16), (64, 64), (np.inf, 128))
"""Rows of an expert up to which a grouped product takes a tile, and the rows of that tile."""
LEAST_INNER = 128
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


def newest_first(board: Board, kind: str, name: str, framework: str) -> list[Path]:
    """Return the files of a framework's table, those of newer versions first."""

    def order(path: Path) -> list[int]:
        digits = "".join(letter if letter.isdigit() else " " for letter in path.parent.name)
        return [int(word) for word in digits.split()]

    found = (tables() / board.folder / kind / framework).glob(f"*/{name}.parquet")
    return sorted(found, key=order, reverse=True)


def rows_of(path: Path, where: Mapping[str, Sequence[str]], keys: Sequence[str], kernel: str = "") -> dict[str, Array]:
    """Return columns of whole numbers `keys` and seconds `s` of a file; of kernels whose name holds `kernel`."""
    have = set(pq.read_schema(path).names)
    wanted = (*keys, *where, "latency", "kernel_source")
    table = pq.read_table(path, columns=[c for c in wanted if c in have]).to_pydict()
    rows = np.ones(len(table["latency"]), bool)
    for column, values in where.items():
        rows &= np.isin(np.array(table[column], dtype=object).astype(str), values)
    if kernel:
        rows &= np.array([kernel in str(name) for name in table["kernel_source"]], bool)
    columns = {c: np.array(table[c] if c in have else np.zeros(len(rows)), np.int64)[rows] for c in keys}
    return {**columns, "s": np.array(table["latency"])[rows] * 1e-3}


def read(
    board: Board,
    kind: str,
    name: str,
    where: Mapping[str, Sequence[str]],
    keys: Sequence[str],
    frameworks: Sequence[str],
) -> dict[str, Array]:
    """Return columns of whole numbers `keys`, and `s`: the fastest seconds of each shape."""
    found = [newest_first(board, kind, name, framework)[:1] for framework in frameworks]
    parts = [rows_of(path, where, keys) for paths in found for path in paths]
    if not parts:
        return {}
    shapes = np.concatenate([np.stack([part[c] for c in keys], 1) for part in parts])
    seconds = np.concatenate([part["s"] for part in parts])
    shapes, place = np.unique(shapes, axis=0, return_inverse=True)
    best = np.full(len(shapes), np.inf)
    np.minimum.at(best, place.ravel(), seconds)
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
EXPERT_NAMES = (
    ("experts_s", "us"),
    ("experts_fill", "B"),
    ("experts_passes", ""),
    ("experts_memory", ""),
    ("quantized_experts_memory", ""),
    ("experts_compute", ""),
    ("narrow_experts_compute", ""),
    ("fp4_experts_compute", ""),
)
EXPERT_START = (25.0, 100.0, 5.0, 0.9, 0.85, 0.5, 0.3, 0.4)
EXPERT_MOST = (200.0, 2000.0, 40.0, 1.0, 1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Grouped:
    """Layers of experts of one format on the boards of a family, a row each: sizes, peaks and measured seconds."""

    narrow: int
    """0: weights of 16 bits, 1: of 8, 2: of 4."""
    width: float
    tokens: Array
    hidden: Array
    inner: Array
    picks: Array
    distinct: Array
    flops: Array
    bandwidth: Array
    seconds: Array

    def curve(self, p: Array, memory: float) -> Array:
        """Return seconds; `p` in the order of `EXPERT_NAMES`, `memory` the share of the bandwidth in streaming.

        The products of gated experts, each entered by its inner dimension and what filling its pipeline takes, as bytes
        read or as FLOPs of padded tiles; beside them a fixed time, and passes over hidden states in 16 bits.
        """
        fill = p[1] / self.width
        occupied = 2.0 * self.inner * (self.hidden + fill) + self.hidden * (self.inner + fill)
        rows = self.picks / self.distinct
        tile = np.select([rows <= most for most, _ in EXPERT_TILES], [float(size) for _, size in EXPERT_TILES])
        padded = np.maximum(rows + tile / 2, tile) * self.distinct
        memory_s = self.distinct * occupied * self.width / (self.bandwidth * p[4 if self.narrow else 3])
        compute_s = 2.0 * padded * occupied / (self.flops * p[5 + self.narrow])
        passes_s = p[2] * self.picks * self.hidden * 2.0 / (self.bandwidth * memory)
        return np.asarray(p[0] * 1e-6 + np.maximum(memory_s, compute_s) + passes_s)


def grouped(family: str, form: str, framework: str = "vllm", kernel: str = "") -> Grouped | None:
    """Return the layers of whole models, cut over devices by their inner dimension alone.

    A model whose rows beat the memory's peak is left out: its benchmark sent all tokens to the same experts.
    """
    parts: list[Array] = []
    for board in FAMILIES[family]:
        device = find_device(board.name)
        t, where = {}, {"moe_dtype": (form,), "distribution": ("balanced",)}
        for path in newest_first(board, "moe", "moe_perf", framework):
            t = rows_of(path, where, EXPERT_KEYS, kernel)
            if len(t["s"]):
                break
        if not t or not len(t["s"]):
            continue
        tokens, hidden, inter, top, count, tensor, groups = (t[name] for name in EXPERT_KEYS)
        inner, picks = inter / tensor, tokens * top * 1.0
        distinct = np.minimum(count, picks)
        use = (groups == 1) & (count >= 8) & (inner >= LEAST_INNER)  # noqa: PLR2004
        bandwidth = device.memory_bandwidth_bytes_per_s
        nbytes = distinct * 3.0 * hidden * inner * WIDTH[form]
        if family in GDDR:
            use &= nbytes > GDDR_MOST * board.cache
        beaten = use & (t["s"] < nbytes / bandwidth)
        models = {tuple(one) for one in np.stack([hidden, inter, count], 1)[beaten].tolist()}
        use &= np.array([tuple(one) not in models for one in np.stack([hidden, inter, count], 1).tolist()])
        peaks = [np.full(len(use), value) for value in (device.flops[PEAK[form]], bandwidth)]
        parts.append(np.stack([tokens, hidden, inner, picks, distinct, *peaks, t["s"]])[:, use])
    if not parts or not sum(part.shape[1] for part in parts):
        return None
    narrow = {"bf16": 0, "fp8": 1, "fp4": 2}[PEAK[form]]
    return Grouped(narrow, WIDTH[form], *np.concatenate(parts, 1))


def fit_experts(tables_of: Sequence[Grouped], memory: float) -> tuple[Array, float]:
    """Return constants in the order of `EXPERT_NAMES`, those without rows as they started, and the median error."""
    weights = [np.full(len(one.seconds), len(one.seconds) ** -0.5) for one in tables_of]
    scale = np.concatenate(weights).mean()

    def off(p: Array) -> list[Array]:
        return [np.log(one.curve(p, memory) / one.seconds) for one in tables_of]

    def residuals(p: Array) -> Array:
        return np.concatenate([weight / scale * error for weight, error in zip(weights, off(p), strict=True)])

    bounds = (np.full(len(EXPERT_START), 0.01), np.array(EXPERT_MOST))
    found = least_squares(residuals, EXPERT_START, loss="soft_l1", f_scale=0.1, bounds=bounds, x_scale=EXPERT_START).x
    return found, float(100 * np.median(np.abs(np.concatenate(off(found)))))


EXPERT_FORMATS = ("bfloat16", "fp8_block", "nvfp4", "w4a8_mxfp4_mxfp8")


def experts(family: str, memory: float, framework: str = "vllm", kernel: str = "") -> list[Line]:
    """Return the constants of experts, fitted together over all formats."""
    found = [one for form in EXPERT_FORMATS if (one := grouped(family, form, framework, kernel)) is not None]
    if not found:
        return []
    values, error = fit_experts(found, memory)
    kinds = {one.narrow for one in found}
    rows = sum(len(one.seconds) for one in found)
    met = [True, True, True, 0 in kinds, bool(kinds - {0}), *(kind in kinds for kind in range(3))]
    return [
        (name, float(value), unit, rows, f"{error:.1f}%")
        for (name, unit), value, known in zip(EXPERT_NAMES, values, met, strict=True)
        if known
    ]


def flop_share(family: str, kind: str, formats: Sequence[str]) -> tuple[float, float, int] | None:
    """Return the median share of the peak that large shapes reach beyond the tile model, half its spread, and rows."""
    shares = []
    for board in FAMILIES[family]:
        device = find_device(board.name)
        for form in formats:
            peak = device.flops.get(PEAK[form])
            if peak:
                shares.append({"gemm": _of_products, "prefill": _of_prefill}[kind](board, form, peak))
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


def lines(family: str) -> list[Line]:
    """Return the constants of a family."""
    out: list[Line] = []

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
    out.extend(experts(family, next(value for name, value, *_ in out if name == "memory")))
    shares = (
        ("compute", "gemm", ("bfloat16",)),
        ("narrow_compute", "gemm", ("fp8", "fp8_block")),
        ("fp4_compute", "gemm", ("nvfp4",)),
        ("prefill_attention", "prefill", ("bfloat16",)),
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
    scale = {"us": 1e6, "ns": 1e9, "B": 1.0, "": 1.0}
    print("error: median over the rows, or half the distance of the quartiles of a share or time")
    for family, boards in FAMILIES.items():
        print(f"\n{family}: {', '.join(board.name for board in boards)}")
        print(f"{'':26s}{'measured':>10s}{'shipped':>10s}    {'rows':>7s} {'error':>8s}")
        for name, value, unit, rows, error in lines(family):
            known = f"{shipped[family][name] * scale[unit]:10.3g}" if name in shipped[family] else f"{'':10s}"
            print(f"{name:26s}{value:10.3g}{known} {unit:3s}{rows:7d} {error:>8s}")


if __name__ == "__main__":
    main()
