"""Our own format of operator tables: a folder of CSV or Parquet files with a `meta.json`, or one such file.

Described in docs/reference/tables.md. Every file has the columns `kind`, `dtype`, `latency_us` and those of its
kinds; a value that a kind does not have is left empty.
"""

import csv
import importlib.util
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from hermes_core.api.errors import InputError, MissingExtraError, OutputError, Place

from hermes_hw.dtypes import DTYPES
from hermes_hw.tables.library import TableLibrary
from hermes_hw.tables.rows import TableRows, checked_rows
from hermes_hw.tables.vocabulary import KINDS

FORMAT: Final = "hermes-operator-tables"
VERSION: Final = 1
_FIXED: Final = ("kind", "dtype", "latency_us")
_SPREAD: Final = "spread_percent"
_US: Final = 1e-6
_LARGEST: Final = 2**53
"""Up to which a float holds every whole number."""


def read_tables(path: Path) -> TableLibrary:
    """Read a folder of tables, or a single file.

    Raises InputError with file and row for missing columns, values that are not numbers, times that are not positive,
    shapes that are there twice and rows out of order; MissingExtraError for Parquet without pyarrow.
    """
    files = [path] if path.is_file() else sorted([*path.glob("*.csv"), *path.glob("*.parquet")])
    if not files:
        raise InputError(f"no tables in {path}", remedy="Give a folder with CSV or Parquet files, or one such file.")
    meta = read_meta(path) if path.is_dir() else {}
    tables: dict[tuple[str, str], TableRows] = {}
    for file in files:
        for rows in _read_file(file):
            key = (rows.kind, rows.dtype)
            if key in tables:
                raise InputError(
                    f"kind {rows.kind} in {rows.dtype} is in {file.name} and in another file", place=Place(str(file))
                )
            tables[key] = rows
    origin = str(meta.get("source") or path.name)
    return TableLibrary(tables, origin)


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of `meta.json`; empty when there is none. Raises InputError when it is not ours."""
    path = folder / "meta.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read it: {error}", place=Place(file=str(path))) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"not a description of tables: no format {FORMAT!r}", place=Place(file=str(path)))
    if content.get("version") != VERSION:
        raise InputError(
            f"version {content.get('version')!r} of the format is not known",
            place=Place(file=str(path)),
            remedy=f"This release reads version {VERSION}.",
        )
    return content


def write_tables(folder: Path, tables: Iterable[TableRows], meta: Mapping[str, Any]) -> None:
    """Write tables as CSV, a file for each kind, with `meta.json`. Raises OutputError when the folder has content."""
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty: choose another folder for the tables")
    folder.mkdir(parents=True, exist_ok=True)
    by_kind: dict[str, list[TableRows]] = {}
    for rows in tables:
        by_kind.setdefault(rows.kind, []).append(rows)
    for _, group in sorted(by_kind.items()):
        write_table(folder, group)
    write_meta(folder, meta)


def write_table(folder: Path, tables: Iterable[TableRows]) -> None:
    """Write the tables of one kind, in any formats, as the CSV of that kind in place of what was there, at one stroke.

    Raises OutputError when it cannot be written.
    """
    group = sorted(tables, key=lambda item: item.dtype)
    kind = group[0].kind
    names = KINDS[kind].columns
    spread = any(rows.spread is not None for rows in group)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kind", "dtype", *names, "latency_us", *([_SPREAD] if spread else [])])
    for rows in group:
        sizes = [rows.columns[name].tolist() for name in names]
        times = [f"{seconds / _US:.6g}" for seconds in rows.seconds.tolist()]
        more = [] if not spread else [_percents(rows)]
        for fields in zip(*sizes, times, *more, strict=True):
            writer.writerow([kind, rows.dtype, *fields])
    _replace(folder / f"{kind}.csv", text.getvalue())


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write `meta.json` in place of what was there, at one stroke. Raises OutputError when it cannot be written."""
    _replace(folder / "meta.json", json.dumps({"format": FORMAT, "version": VERSION, **meta}, indent=1) + "\n")


def _percents(rows: TableRows) -> list[str]:
    values = rows.spread.tolist() if rows.spread is not None else [0.0] * len(rows)
    return [f"{100 * value:.3g}" for value in values]


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


_FAULTY: Final = "Write it as one, or take the row out."


def _read_file(path: Path) -> list[TableRows]:
    columns = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    missing = [name for name in _FIXED if name not in columns]
    if missing:
        raise InputError(
            f"columns are missing: {', '.join(missing)}",
            place=Place(file=str(path), line=1),
            remedy=f"A table has {', '.join(_FIXED)} and the columns of its kind, with commas between them; "
            f"found: {', '.join(columns) or 'nothing'}.",
        )
    if not len(columns["kind"]):
        raise InputError("there are no rows", place=Place(file=str(path)), remedy="Measure something, or leave it out.")
    groups: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(columns["kind"], columns["dtype"], strict=True)):
        groups.setdefault((str(key[0]), str(key[1])), []).append(i)
    return [_group(path, columns, kind, dtype, places) for (kind, dtype), places in groups.items()]


def _group(path: Path, columns: Mapping[str, Sequence[Any]], kind: str, dtype: str, places: list[int]) -> TableRows:
    line = places[0] + 2
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise InputError(f"unknown kind {kind!r}", place=Place(file=str(path), line=line), remedy=f"Known: {known}.")
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise InputError(
            f"unknown number format {dtype!r}", place=Place(file=str(path), line=line), remedy=f"Known: {known}."
        )
    sizes = {}
    for name in KINDS[kind].columns:
        if name not in columns:
            raise InputError(
                f"kind {kind} needs the column {name!r}",
                place=Place(file=str(path), line=1),
                remedy=f"Its columns are {', '.join(KINDS[kind].columns)}.",
            )
        values = [_whole(path, i + 2, name, columns[name][i]) for i in places]
        sizes[name] = np.array(values, dtype=np.int64)
    seconds = np.array([_number(path, i + 2, columns["latency_us"][i]) for i in places]) * _US
    lines = [i + 2 for i in places]
    spread = None if _SPREAD not in columns else np.array([_spread(path, i + 2, columns[_SPREAD][i]) for i in places])
    return checked_rows(
        kind, dtype, sizes, seconds, path.name, file=str(path), lines=lines, ordered=True, spread=spread
    )


def _spread(path: Path, line: int, value: Any) -> float:
    """Return a spread as a share; nothing written is none."""
    try:
        share = float(value or 0.0) / 100.0
    except (TypeError, ValueError):
        share = math.nan
    if not (math.isfinite(share) and share >= 0.0):
        raise InputError(
            f"{_SPREAD} must be a number of at least 0, found {value!r}",
            place=Place(file=str(path), line=line),
            remedy="Write it as one, or leave it empty.",
        )
    return share


def _whole(path: Path, line: int, name: str, value: Any) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not number.is_integer() or abs(number) > _LARGEST:
        raise InputError(
            f"{name} must be a whole number below 2^53, found {value!r}"
            if number.is_integer()
            else f"{name} must be a whole number, found {value!r}",
            place=Place(file=str(path), line=line),
            remedy=_FAULTY,
        )
    return int(number)


def _number(path: Path, line: int, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(
            f"latency_us must be a number, found {value!r}", place=Place(file=str(path), line=line), remedy=_FAULTY
        ) from None


def _csv(path: Path) -> dict[str, list[Any]]:
    try:
        # Spreadsheets begin their exports with a mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            again = [name for i, name in enumerate(header) if name in header[:i]]
            if again:
                raise InputError(
                    f"the column {again[0]!r} is there twice", place=Place(file=str(path), line=1), remedy="Keep one."
                )
            rows = []
            for row in reader:
                if len(row) != len(header):
                    raise InputError(
                        f"{len(row)} values, but {len(header)} columns",
                        place=Place(file=str(path), line=reader.line_num),
                        remedy="Give each row a value for each column.",
                    )
                rows.append(row)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"not text: {error.reason}", place=Place(file=str(path))) from None
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _parquet(path: Path) -> dict[str, list[Any]]:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError(f"reading {path} needs pyarrow: pip install 'hermes-hw[tables]'")
    import pyarrow as pa  # noqa: PLC0415 - an extra
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"not a Parquet file: {error}", place=Place(file=str(path))) from None
    return {name: table[name].to_pylist() for name in table.column_names}
