"""The log of a search: what every run and every bound came to, so that a search that is stopped goes on from there.

    search.json   what was asked, over which scenario
    runs.jsonl    one line for each run, and for each bound, in the order in which they were done; it only grows

The search itself keeps nothing else: asked again, it takes the same way and meets the answers of the log.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from hermes_analysis.errors import AnalysisError, OutputError
from hermes_analysis.optimize.evaluate import Job, Reply
from hermes_analysis.output import LineLog, json_text, replacing, usable_folder

_VERSION: Final = 1
_KEY_BYTES: Final = 16


class SearchLog:
    """The replies to jobs over one scenario, on disk. Close it, or use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scenario = ""
        self._asked: Mapping[str, Any] = {}
        self._log: LineLog | None = None
        self._offsets: dict[str, int] = {}
        self._reader: BinaryIO | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "runs.jsonl"

    @property
    def about_path(self) -> Path:
        """What the search is about."""
        return self.folder / "search.json"

    def __len__(self) -> int:
        return len(self._offsets)

    def open(self, scenario: str, asked: Mapping[str, Any], *, force: bool = False) -> None:
        """Begin a search over the scenario of that digest, or go on with it.

        Runs that another search over the same scenario left are used too. With `force` it starts anew. Raises
        OutputError when an answer lies in the folder that is not of a search over this scenario (unless `force`),
        AnalysisError for a line that is no reply.
        """
        before = self._about()
        answer = self.folder / "answer.json"
        if answer.exists() and not force and before.get("scenario") != scenario:
            what = "is of a search over another scenario, or by other versions of the packages" if before else "exists"
            raise OutputError(f"{answer}: {what}; choose another --out, or give --force to start anew")
        if force:
            self.path.unlink(missing_ok=True)
        self._scenario = scenario
        self._asked = asked
        self._read()

    def begin(self) -> None:
        """Make the folder, and say in it what was asked. Raises OutputError."""
        usable_folder(self.folder)
        content = {"version": _VERSION, "scenario": self._scenario, "asked": self._asked}
        with replacing(self.about_path) as stream:
            stream.write(json_text(content).encode())

    def find(self, job: Job) -> Reply | None:
        """Return the reply to a job, if it was done."""
        at = self._offsets.get(self._key(job))
        if at is None:
            return None
        if self._reader is None:
            self._reader = self.path.open("rb")
        self._reader.seek(at)
        return _reply(json.loads(self._reader.readline()))

    def add(self, job: Job, reply: Reply) -> None:
        """Keep a reply. Raises OutputError when it cannot be written.

        One that may come out otherwise is not kept, nor that a candidate is no scenario: that costs nothing to see.
        """
        if not reply.certain or (reply.error and job.bounds and not reply.memory):
            return
        key = self._key(job)
        content = {
            "key": key,
            "sets": job.sets,
            "seed": job.seed,
            **({"bounds": True} if job.bounds else {}),
            **({"error": reply.error} if reply.error else {}),
            **({"memory": True} if reply.memory else {}),
            "metrics": {name: _written(value) for name, value in reply.metrics.items()},
        }
        line = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if self._log is None:
            self.begin()
            self._log = LineLog(self.path)
        self._offsets[key] = self._log.add(line)

    def close(self) -> None:
        """Close the files."""
        for file in (self._log, self._reader):
            if file is not None:
                file.close()
        self._log = self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _key(self, job: Job) -> str:
        content = json.dumps([self._scenario, job.sets, job.seed, job.bounds], ensure_ascii=False)
        return hashlib.blake2b(content.encode(), digest_size=_KEY_BYTES).hexdigest()

    def _about(self) -> dict[str, Any]:
        try:
            content = json.loads(self.about_path.read_text())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be used: {error.strerror}; choose another --out") from error
        except ValueError as error:
            raise AnalysisError(
                f"{self.about_path}: is not JSON ({error}); remove it, or choose another --out"
            ) from None
        return content if isinstance(content, dict) else {}

    def _read(self) -> None:
        """Note where each reply lies. Drop a line that was cut short."""
        self._offsets = {}
        if not self.path.exists():
            return
        end = 0
        with self.path.open("rb") as log:
            for number, line in enumerate(log, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    content = json.loads(line)
                    _reply(content)
                    self._offsets[str(content["key"])] = end
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    where = f"{self.path}:{number}"
                    raise AnalysisError(f"{where}: is no run of a search ({error}); remove the line") from None
                end += len(line)
        if self.path.stat().st_size > end:
            with self.path.open("r+b") as log:
                log.truncate(end)


def _written(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _reply(content: Mapping[str, Any]) -> Reply:
    metrics = {str(name): float(value) for name, value in content["metrics"].items()}
    return Reply(metrics, str(content.get("error", "")), bool(content.get("memory", False)))
