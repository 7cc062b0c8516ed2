"""The folder of a sweep: what was asked, a log that only grows, and the results as Parquet.

    sweep.json       what is varied, over which scenario
    log.jsonl        one line for each point that is done, in the order in which they were
    results.parquet  the same as columns, by number of the point

The log is the truth: a sweep that is stopped at any moment goes on from it, and a line that was cut short is dropped.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from hermes_analysis.errors import AnalysisError, OutputError
from hermes_analysis.output import LineLog, json_text, replacing, usable_folder
from hermes_analysis.points import UNITS, Metrics
from hermes_analysis.sweep.axes import parse_axis
from hermes_analysis.sweep.space import Space

_VERSION: Final = 1
_INFINITE: Final = "inf"
_BLOCK: Final = 4096
"""Rows whose places are gathered as Python objects, before they become an array."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one point: its metrics, or why it has none."""

    index: int
    key: str
    values: tuple[str, ...]
    seed: int
    metrics: Metrics | None
    error: str = ""

    def line(self) -> bytes:
        """Return the row as a line of the log. A metric without a number is left out; "inf" is infinite."""
        content: dict[str, Any] = {"i": self.index, "key": self.key, "values": self.values, "seed": self.seed}
        if self.metrics is None:
            content["error"] = self.error
        else:
            content["metrics"] = {
                name: _INFINITE if math.isinf(value) else value
                for name, value in self.metrics.items()
                if not math.isnan(value)
            }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> "Row":
        """Read a line of the log. Raises ValueError, KeyError or TypeError for another line."""
        content = json.loads(line)
        found = content.get("metrics")
        metrics = None if found is None else {name: float(found.get(name, math.nan)) for name in UNITS}
        error = "" if found is not None else str(content["error"])
        return cls(
            int(content["i"]), str(content["key"]), tuple(content["values"]), int(content["seed"]), metrics, error
        )


class SweepFolder:
    """The files of a sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = LineLog(self.log_path)

    @property
    def log_path(self) -> Path:
        """The log."""
        return self.path / "log.jsonl"

    @property
    def results_path(self) -> Path:
        """The results as Parquet."""
        return self.path / "results.parquet"

    @staticmethod
    def is_one(path: Path) -> bool:
        """Say whether a sweep lies at `path`."""
        return (path / "sweep.json").is_file()

    def space(self) -> Space:
        """Return the points that the sweep is made of. Raises AnalysisError."""
        about = self.about()
        try:
            return Space(
                axes=tuple(parse_axis(text) for text in about["over"]),
                seeds=tuple(about["seeds"]),
                sobol=about["sobol"],
                sampling_seed=about["sampling_seed"],
                scenario=about["scenario"],
            )
        except (KeyError, TypeError) as error:
            raise AnalysisError(f"{self.path}/sweep.json: lacks {error}; it was not written by hermes sweep") from None

    def about(self) -> dict[str, Any]:
        """Return what the sweep is about. Raises AnalysisError when no sweep lies there."""
        file = self.path / "sweep.json"
        try:
            content: dict[str, Any] = json.loads(file.read_text())
        except FileNotFoundError:
            raise AnalysisError(f"{self.path}: holds no sweep (no sweep.json)") from None
        except json.JSONDecodeError as error:
            raise AnalysisError(f"{file}: is not JSON ({error}); start the sweep in another folder") from None
        return content

    def open(self, about: Mapping[str, Any], *, force: bool = False) -> NDArray[np.uint64]:
        """Begin the sweep, or go on with it; return the first half of each key that is done, ascending.

        Raises OutputError when the folder holds another sweep (unless `force`, which starts anew) or something else.
        """
        asked = json.loads(json.dumps({"version": _VERSION, **about}))
        if self.is_one(self.path):
            before = self.about()
            if before.get("scenario") != asked["scenario"] and not force:
                raise OutputError(
                    f"{self.path}: holds a sweep of another scenario, or of other versions of the packages; "
                    "choose another --out, or give --force to start anew"
                )
            if force:
                self.log_path.unlink(missing_ok=True)
                self.results_path.unlink(missing_ok=True)
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise OutputError(f"{self.path}: exists and is no sweep; choose another --out")
        usable_folder(self.path)
        with replacing(self.path / "sweep.json") as stream:
            stream.write(json_text(asked).encode())
        keys: NDArray[np.uint64] = self._places()["key"]
        return keys

    def append(self, row: Row) -> None:
        """Add one row to the log. Raises OutputError when it cannot be written."""
        self._log.add(row.line())

    def rows(self, space: Space) -> Iterator[Row]:
        """Yield the rows of the points of `space` that are done, by number of the point, one in memory at a time."""
        places = self._places()
        if not len(places):
            return
        with self.log_path.open("rb") as log:
            for index in range(len(space)):
                point = space.point(index)
                key = space.key(point)
                at = int(np.searchsorted(places["key"], key_number(key)))
                if at < len(places) and places["key"][at] == key_number(key):
                    log.seek(int(places["offset"][at]))
                    row = Row.of(log.readline())
                    yield Row(index, key, point.values, point.seed, row.metrics, row.error)

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lines(self) -> Iterator[tuple[int, int, Row]]:
        """Yield the whole rows of the log, each with its first byte and the one behind its last.

        Raises AnalysisError for a line that is no row.
        """
        if not self.log_path.exists():
            return
        with self.log_path.open("rb") as log:
            offset = 0
            for number, line in enumerate(log, 1):
                if not line.endswith(b"\n"):
                    return  # cut short as it was written
                try:
                    row = Row.of(line)
                except (ValueError, KeyError, TypeError) as error:
                    where = f"{self.log_path}:{number}"
                    raise AnalysisError(f"{where}: is no row of a sweep ({error}); remove the line") from None
                yield offset, offset + len(line), row
                offset += len(line)

    def _places(self) -> NDArray[Any]:
        """Return key and offset of each row, by key; of several of one key the last. Drop a line that was cut short."""
        kinds = np.dtype([("key", np.uint64), ("offset", np.int64)])
        blocks, block, end = [np.zeros(0, kinds)], list[tuple[np.uint64, int]](), 0
        for offset, end, row in self._lines():  # noqa: B007 - the end of the last
            block.append((key_number(row.key), offset))
            if len(block) >= _BLOCK:
                blocks.append(np.array(block, dtype=kinds))
                block = []
        blocks.append(np.array(block, dtype=kinds))
        if self.log_path.exists() and self.log_path.stat().st_size > end:
            with self.log_path.open("r+b") as log:
                log.truncate(end)
        places = np.concatenate(blocks)
        places = places[np.lexsort((places["offset"], places["key"]))]
        last = np.append(places["key"][1:] != places["key"][:-1], values=True) if len(places) else np.zeros(0, bool)
        chosen: NDArray[Any] = places[last]
        return chosen


def key_number(key: str) -> np.uint64:
    """Return the first half of a key as a number: what is kept in memory of what is done."""
    return np.uint64(int(key[:16], 16))
