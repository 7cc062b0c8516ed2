"""What uneven contexts cost attention, read from the `skew.csv` of an LLMServingSim profile.

A kernel that gives each sequence to one block of threads lasts as long as the longest: a batch takes longer than as
many sequences that all have its mean context. The profile measures batches of two contexts, of `n` sequences `nb` with
four times the context of the others, beside a prompt chunk of `pc` tokens or alone, and as many at the mean. What comes
on top goes with the longest context over the mean, hardly with the contexts themselves, so it is read as that.
"""

import csv
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from hermes_core.api.errors import InputError, Place

FILE: Final = "skew.csv"
_COLUMNS: Final = ("n", "pc", "kvs", "kv_big", "kv_mean", "t_mean_us", "t_skew_us")
_LEAST_CONTEXT: Final = 512
"""Shorter ones are a few blocks of keys, which says little of the longer ones that serving meets."""


@dataclass(frozen=True, slots=True)
class Uneven:
    """Time of uneven batches over that of even ones, less 1."""

    curves: dict[int, dict[int, tuple[list[float], list[float]]]]
    """By tokens of the prompt chunk beside, then by sequences: ratios of longest to mean context, and what is added."""

    def added(self, seqs: int, chunk: int, longest: float) -> float:
        """Return the share that comes on top when the longest context is `longest` times the mean.

        Interpolated in the logarithm of sequences and of the chunk; beyond what was measured, as at its edge.
        """
        if longest <= 1.0 or seqs < 2:  # noqa: PLR2004 - one sequence has no other
            return 0.0
        if not chunk:
            return self._at(self.curves[0], seqs, longest) if 0 in self.curves else 0.0
        chunks = sorted(size for size in self.curves if size)
        return _between(chunks, chunk, lambda size: self._at(self.curves[size], seqs, longest)) if chunks else 0.0

    @staticmethod
    def _at(by_seqs: dict[int, tuple[list[float], list[float]]], seqs: int, longest: float) -> float:
        return _between(sorted(by_seqs), seqs, lambda size: float(np.interp(longest, *by_seqs[size])))


def _between(sizes: Sequence[int], size: int, value: Any) -> float:
    """Interpolate `value` at `size` between the two of `sizes` around it, in logarithms."""
    upper = min(bisect_right(sizes, size), len(sizes) - 1)
    lower = max(upper - 1, 0)
    if lower == upper:
        return float(value(sizes[lower]))
    part = (math.log(size) - math.log(sizes[lower])) / (math.log(sizes[upper]) - math.log(sizes[lower]))
    part = min(max(part, 0.0), 1.0)
    return float((1 - part) * value(sizes[lower]) + part * value(sizes[upper]))


def read_uneven(folder: Path) -> Uneven | None:
    """Return what `folder`, a degree of a profile, says of uneven batches; None where it says nothing of them.

    The profile's `meta.yaml` marks its measurements of uneven batches as in force or not (`skew_profile: enabled:`).
    Raises InputError with file and line for what is unsound.
    """
    path = folder / FILE
    if not path.is_file() or not _enabled(folder.parent / "meta.yaml"):
        return None
    seen: dict[tuple[int, int, float], list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                raise InputError(
                    f"columns are missing: {', '.join(missing)}",
                    place=Place(file=str(path), line=1),
                    remedy=f"{FILE} of such a profile has {', '.join(_COLUMNS)}.",
                )
            for row in reader:
                n, pc, kvs, big, mean, even_us, uneven_us = _numbers(path, reader.line_num, row)
                if kvs >= _LEAST_CONTEXT:
                    seen.setdefault((int(pc), int(n), round(big / mean, 6)), []).append(uneven_us / even_us - 1.0)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    curves: dict[int, dict[int, tuple[list[float], list[float]]]] = {}
    for (pc, n, longest), added in sorted(seen.items()):
        ratios, shares = curves.setdefault(pc, {}).setdefault(n, ([1.0], [0.0]))
        ratios.append(longest)
        shares.append(sum(added) / len(added))
    return Uneven(curves) if curves else None


def _numbers(path: Path, line: int, row: dict[str, str]) -> list[float]:
    numbers = []
    for name in _COLUMNS:
        try:
            value = float(row[name])
        except (TypeError, ValueError):
            value = math.nan
        if not (math.isfinite(value) and (value > 0 or (name == "pc" and value == 0))):
            problem = f"{name} must be a positive number, found {row[name]!r}"
            raise InputError(
                problem, place=Place(file=str(path), line=line), remedy="Measure it again, or take the row out."
            )
        numbers.append(value)
    return numbers


def _enabled(meta: Path) -> bool:
    """Return whether the profile holds its measurements of uneven batches to be in force; yes when it does not say."""
    if not meta.is_file():
        return True
    lines = [line.rstrip() for line in meta.read_text(encoding="utf-8").splitlines()]
    if "skew_profile:" not in lines:
        return True
    for line in lines[lines.index("skew_profile:") + 1 :]:
        if not line.startswith(" "):
            break
        if line.strip().startswith("enabled:"):
            return line.split(":")[1].strip() != "false"
    return True
