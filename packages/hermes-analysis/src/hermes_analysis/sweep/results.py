"""The results of a sweep: Parquet for other programs, and the best combinations with their spread over seeds."""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from hermes_analysis.optional import optional
from hermes_analysis.output import replacing
from hermes_analysis.points import HIGHER_IS_BETTER, UNITS
from hermes_analysis.replicate import Estimate
from hermes_analysis.sweep.axes import numbers_of
from hermes_analysis.sweep.folder import Row, SweepFolder
from hermes_analysis.sweep.space import Space

_ROWS: Final = 4096


@dataclass(frozen=True, slots=True)
class Combination:
    """One combination of values with what its seeds came to."""

    number: int
    values: tuple[str, ...]
    metrics: dict[str, Estimate]
    """Empty when every seed failed."""
    failed: int
    """Seeds without a result."""
    error: str
    """Of the first that failed."""

    def order(self, metric: str) -> tuple[float, int]:
        """Return what combinations are sorted by: the best first, those without a number last, ties by number."""
        found = self.metrics.get(metric)
        if found is None or math.isnan(found.mean):
            return math.inf, self.number
        return (-found.mean if metric in HIGHER_IS_BETTER else found.mean), self.number


def combinations(folder: SweepFolder, space: Space) -> Iterator[Combination]:
    """Yield the combinations that are done, by number, one in memory at a time."""
    seeds = len(space.seeds)
    for number, group in groupby(folder.rows(space), key=lambda row: row.index // seeds):
        rows = list(group)
        good = [row.metrics for row in rows if row.metrics is not None]
        bad = [row for row in rows if row.metrics is None]
        metrics = {name: Estimate.of([row[name] for row in good]) for name in UNITS} if good else {}
        yield Combination(number, rows[0].values, metrics, len(bad), bad[0].error if bad else "")


def best(folder: SweepFolder, space: Space, metric: str | None, most: int) -> list[Combination]:
    """Return at most `most` combinations: the best by `metric`, or the first ones without."""
    found = combinations(folder, space)
    if metric is None:
        return [combination for combination, _ in zip(found, range(most), strict=False)]
    return heapq.nsmallest(most, found, key=lambda combination: combination.order(metric))


def write_parquet(folder: SweepFolder, space: Space) -> int:
    """Write the results as columns, by number of the point; return how many rows. Needs pyarrow (extra "sweep").

    Columns: `index`, `seed`, `key`, one for each path that is varied (a number where all its values are numbers of one
    unit, else text), one for each metric (NaN: there is no such number), `error` (empty: none).
    """
    arrow = optional("pyarrow", "Results as Parquet", "sweep")
    parquet = optional("pyarrow.parquet", "Results as Parquet", "sweep")
    numeric = [bool(axis.values) and axis.numbers() is not None for axis in space.axes]
    fields = [("index", arrow.int64()), ("seed", arrow.int64()), ("key", arrow.string())]
    kinds = [arrow.float64() if is_number else arrow.string() for is_number in numeric]
    fields += zip((axis.path for axis in space.axes), kinds, strict=True)
    fields += [(name, arrow.float64()) for name in UNITS] + [("error", arrow.string())]
    schema = arrow.schema(fields)
    total = 0
    with replacing(folder.results_path) as stream, parquet.ParquetWriter(stream, schema) as writer:
        for block in _blocks(folder.rows(space)):
            writer.write_batch(arrow.record_batch(_columns(block, numeric), schema=schema))
            total += len(block)
    return total


def _blocks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    block: list[Row] = []
    for row in rows:
        block.append(row)
        if len(block) == _ROWS:
            yield block
            block = []
    if block:
        yield block


def _columns(rows: Sequence[Row], numeric: Sequence[bool]) -> list[list[Any]]:
    columns: list[list[Any]] = [[row.index for row in rows], [row.seed for row in rows], [row.key for row in rows]]
    for place, is_number in enumerate(numeric):
        texts = [row.values[place] for row in rows]
        columns.append(list(numbers_of(texts) or []) if is_number else texts)
    known = [row.metrics or {} for row in rows]
    columns += [[metrics.get(name, math.nan) for metrics in known] for name in UNITS]
    columns.append([row.error for row in rows])
    return columns
