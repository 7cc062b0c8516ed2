"""Answers kept on disk between runs, under the fingerprint of the session that gave them."""

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from hermes_core.api.errors import OutputError

Answer: TypeAlias = tuple[int, float, int]
"""Picoseconds, joules, place in SOURCES."""

_SCHEMA: Final = """
create table if not exists answers (
    fingerprint text not null, question blob not null, latency_ps integer not null, energy_j real not null,
    source integer not null, primary key (fingerprint, question)
) without rowid
"""
_BATCH: Final = 500


class DiskCache:
    """A SQLite file of answers. Several runs may use it at once; one that is damaged is an OutputError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=30.0)
            self._base.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise self._fault(error) from None

    def get(self, fingerprint: str, questions: Sequence[bytes]) -> dict[bytes, Answer]:
        """Return the answers that are known, by question."""
        keys = {_digest(question): question for question in questions}
        found: dict[bytes, Answer] = {}
        names = list(keys)
        try:
            for start in range(0, len(names), _BATCH):
                part = names[start : start + _BATCH]
                marks = ",".join("?" * len(part))
                rows = self._base.execute(
                    f"select question, latency_ps, energy_j, source from answers where fingerprint = ? and question in ({marks})",  # noqa: E501, S608 - marks only
                    (fingerprint, *part),
                )
                found.update({keys[row[0]]: (row[1], row[2], row[3]) for row in rows})
        except sqlite3.Error as error:
            raise self._fault(error) from None
        return found

    def put(self, fingerprint: str, answers: Mapping[bytes, Answer]) -> None:
        """Keep answers."""
        rows: Iterable[tuple[str, bytes, int, float, int]] = (
            (fingerprint, _digest(question), *answer) for question, answer in answers.items()
        )
        try:
            with self._base:
                self._base.executemany("insert or replace into answers values (?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise self._fault(error) from None

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _fault(self, error: Exception) -> OutputError:
        return OutputError(f"the cache of prices {self._path} cannot be used: {error}; delete it, or name another file")


def _digest(question: bytes) -> bytes:
    return hashlib.blake2b(question, digest_size=20).digest()
