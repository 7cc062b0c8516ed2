"""The folder of a profile: every measurement is in its tables as soon as it is made, whatever happens afterwards."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from hermes_core.api.errors import InputError, OutputError

from hermes_hw.profiling.plan import Point
from hermes_hw.tables.cleaning import UNSTEADY, above_larger, above_parts
from hermes_hw.tables.open_format import read_meta, read_tables, write_meta, write_table
from hermes_hw.tables.rows import TableRows, checked_rows
from hermes_hw.tables.vocabulary import KINDS

ABOVE_LARGER: Final = 1.2
"""Times as long as more work that a measurement may take before it is doubted."""
ABOVE_PARTS: Final = 3.0
"""Times as long as the same work in parts."""
_SAME: Final = ("backend", "dtype", "versions", "threads")
"""What must be as it was when a profile is continued."""
_OWN: Final = "hermes-hw"


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement."""

    seconds: float
    spread: float
    """How far above the least the least quarter of the runs goes; 0.1: 10%."""

    def joined(self, other: "Reading") -> "Reading":
        """Return what two visits to one point say together: the less, and as steady as they agree."""
        low, high = sorted((self, other), key=lambda reading: reading.seconds)
        return Reading(low.seconds, min(low.spread, high.seconds / low.seconds - 1.0))


@dataclass
class Folder:
    """The tables of one profile, in memory and on disk."""

    path: Path
    dtype: str
    readings: dict[str, dict[tuple[int, ...], Reading]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def opened(cls, path: Path, dtype: str, setting: Mapping[str, Any], name: str | None) -> "Folder":
        """Return the folder at `path`, with what a profile in the same `setting` measured there before.

        Raises OutputError when there is something else in it, or a profile of another machine, library or name.
        """
        folder = cls(path, dtype)
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file: name a folder for the tables")
        if not path.exists() or not any(path.iterdir()):
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot make the folder {path}: {error.strerror}") from None
            return folder
        try:
            meta = read_meta(path)
        except InputError as error:
            raise OutputError(f"{path} is not an empty folder, nor a profile: choose another ({error})") from None
        if "measuring" not in meta:
            raise OutputError(f"{path} is not an empty folder, nor a profile that can be continued: choose another")
        for what, before, here in _differences(meta, setting, name):
            raise OutputError(f"{path} holds a profile with {what} {before}, here it is {here}: choose another folder")
        folder.meta = meta
        if any(path.glob("*.csv")):
            for rows in read_tables(path).tables.values():
                folder._take(rows)
        return folder

    def _take(self, rows: TableRows) -> None:
        columns = [rows.columns[name].tolist() for name in KINDS[rows.kind].columns]
        spreads = rows.spread.tolist() if rows.spread is not None else [0.0] * len(rows)
        found = self.readings.setdefault(rows.kind, {})
        for seconds, spread, *sizes in zip(rows.seconds.tolist(), spreads, *columns, strict=True):
            found[tuple(sizes)] = Reading(seconds, spread)

    def get(self, point: Point) -> Reading | None:
        """Return the measurement of a point; None when there is none."""
        return self.readings.get(point.kind, {}).get(point.sizes)

    def put(self, point: Point, reading: Reading) -> None:
        """Keep a measurement, together with that of an earlier visit, and write its table."""
        before = self.get(point)
        found = self.readings.setdefault(point.kind, {})
        found[point.sizes] = reading if before is None else before.joined(reading)
        write_table(self.path, [self.table(point.kind)])

    def table(self, kind: str) -> TableRows:
        """Return the table of a kind."""
        found = self.readings[kind]
        sizes = np.array(list(found), np.int64).T
        columns = dict(zip(KINDS[kind].columns, sizes, strict=True))
        seconds = np.array([one.seconds for one in found.values()])
        spread = np.array([one.spread for one in found.values()])
        return checked_rows(kind, self.dtype, columns, seconds, "profile", file=f"{kind}.csv", spread=spread)

    def tables(self) -> list[TableRows]:
        """Return all tables."""
        return [self.table(kind) for kind in self.readings]

    def doubtful(self) -> dict[tuple[str, tuple[int, ...]], str]:
        """Return which measurements, by kind and sizes, are not to be trusted, and why."""
        found: dict[tuple[str, tuple[int, ...]], str] = {}
        for kind, readings in self.readings.items():
            rows = self.table(kind)
            sizes = np.stack([rows.columns[name] for name in KINDS[kind].columns], axis=1)
            slow = (above_larger(rows) > ABOVE_LARGER) | (above_parts(rows) > ABOVE_PARTS)
            found |= {(kind, tuple(sizes[i].tolist())): "above" for i in np.flatnonzero(slow).tolist()}
            found |= {(kind, key): "unsteady" for key, reading in readings.items() if reading.spread > UNSTEADY}
        return found

    def describe(self, meta: Mapping[str, Any]) -> None:
        """Write what is known of the measurement."""
        self.meta = {**self.meta, **meta}
        write_meta(self.path, self.meta)

    def __len__(self) -> int:
        return sum(len(found) for found in self.readings.values())


def _differences(meta: Mapping[str, Any], setting: Mapping[str, Any], name: str | None) -> Sequence[tuple[str, ...]]:
    """Return what is not as it was: what it is, before and here."""
    device = meta.get("device")
    before_name = str(device.get("name")) if isinstance(device, dict) else ""
    found = [] if name in {None, before_name} else [("the name", repr(before_name), repr(name))]
    machine = meta.get("machine")
    pairs: list[tuple[str, Any, Any]] = [(key, meta.get(key), setting.get(key)) for key in _SAME]
    before_processor = machine.get("processor") if isinstance(machine, dict) else None
    pairs.append(("processor", before_processor, setting["machine"]["processor"]))
    for key, before, here in pairs:
        if isinstance(before, dict) and isinstance(here, dict):
            names = [item for item in {**before, **here} if item != _OWN and before.get(item) != here.get(item)]
            found += [(item, str(before.get(item, "absent")), str(here.get(item, "absent"))) for item in names]
        elif before != here:
            found.append((key, json.dumps(before), json.dumps(here)))
    return found
