# ruff: noqa: INP001, T201, S603 - a script
"""Makes the report of this folder anew: tables, plots and fits, from measurements that are not part of the project.

    python docs/validation/make.py FOLDER

FOLDER holds experiments, `silicon_open.csv` and `splitwise_static_open.csv`. What cannot be made for lack of something
is named, and stays as it is. Takes a minute, and five more for `silicon_open.csv`, on two processors; `--tail` takes as
long again. Each file takes the place of the one before only when it is whole.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
VALIDATED = {"experiments": "", "closed-loop": "silicon_open.csv", "static-batch": "splitwise_static_open.csv"}
FROM = {"front-end": "experiments", "tokenising": "closed-loop"}
"""Fits, and the comparison that each is made of."""


@dataclass(frozen=True)
class Part:
    """One part of the report: how it is made, and why it cannot be."""

    name: str
    make: Callable[[], None]
    lacks: Callable[[], str]
    """Says what is missing, nothing when it can be made. Asked when its turn has come: parts need one another."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the parts that can be made; return 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=HERE, help="where the report goes; beside this script without")
    parser.add_argument("--only", action="append", metavar="PART", help="this part and what it needs; repeatable")
    parser.add_argument("--tail", action="store_true", help="also five seeds of each experiment, five minutes")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        parts = parts_of(asked.folder, asked.out, Path(scratch))
        known = [part.name for part in parts]
        if unknown := sorted(set(asked.only or ()) - set(known)):
            parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(known)}")
        chosen = asked.only or [name for name in known if name != "tail" or asked.tail]
        wanted = [name for name in known if name in {*chosen, *(FROM[name] for name in chosen if name in FROM)}]
        failed = [part.name for part in parts if part.name in wanted and not done(part, wanted)]
    if failed:
        tell(f"failed: {', '.join(failed)}; what was there of them stays as it was")
    return int(bool(failed))


def parts_of(folder: Path, out: Path, scratch: Path) -> list[Part]:
    """Return all parts, in an order in which each comes after what it needs."""
    found = {name: scratch / f"{name}.json" for name in VALIDATED}

    def validation(name: str) -> Part:
        place = folder / VALIDATED[name]
        report, plot = out / f"{name}.md", out / f"{name}.svg"
        outputs = ("--report", str(report), "--plot", str(plot), "--json", str(found[name]))
        command = ("-m", "hermes_core.cli", "validate", str(place), *outputs)
        lacks = partial(missing, [place]) if VALIDATED[name] else partial(no_experiments, folder)
        return Part(name, lambda: run(command), lacks)

    def fit(name: str, script: str, *inputs: Path, lacks: Callable[[], str] | None = None) -> Part:
        target = out / f"{name}.txt"
        command = (str(HERE / script), *map(str, inputs))
        return Part(name, lambda: put(target, run(command)), lacks or partial(missing, inputs))

    table = folder / VALIDATED["closed-loop"]
    return [
        *map(validation, VALIDATED),
        fit("front-end", "front_end.py", found["experiments"]),
        fit("tokenising", "tokenising.py", table, found["closed-loop"]),
        fit("around", "around.py", folder, lacks=partial(no_experiments, folder)),
        fit("kernels", "kernels.py", lacks=no_tables),
        fit("tail", "tail.py", folder, lacks=partial(no_experiments, folder)),
    ]


def done(part: Part, wanted: Sequence[str]) -> bool:
    """Make a part, or say why it stays as it is; return whether all went well."""
    where = f"[{wanted.index(part.name) + 1} of {len(wanted)}] {part.name}"
    if lacking := part.lacks():
        tell(f"{where}: stays as it is, for {lacking}")
        return True
    tell(f"{where} ...")
    began = time.monotonic()
    try:
        part.make()
    except subprocess.CalledProcessError as error:
        tell(f"{where}: ended with {error.returncode}")
        return False
    tell(f"{where}: {time.monotonic() - began:.0f} s")
    return True


def run(arguments: Sequence[str]) -> str:
    """Run a part of its own in Python; return what it prints. What it says on stderr is seen."""
    return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def put(target: Path, text: str) -> None:
    """Write a file that is whole at any time."""
    part = target.with_name(f"{target.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def missing(inputs: Sequence[Path]) -> str:
    """Return what of the inputs is not there: a table, or the comparison that a part before makes."""
    absent = next((path for path in inputs if not path.exists()), None)
    return "" if absent is None else f"{absent.name} is not there"


def no_experiments(folder: Path) -> str:
    """Say that there are no experiments, if so."""
    return "" if any(folder.glob("*/experiment.json")) else f"{folder} holds no experiments"


def no_tables() -> str:
    """Say which library the constants of kernels need, if one is missing."""
    absent = [name for name in ("aiconfigurator_core", "scipy", "pyarrow") if importlib.util.find_spec(name) is None]
    return f"{absent[0]} is not installed: pip install 'hermes-hw[silicon]' scipy" if absent else ""


def tell(text: str) -> None:
    """Say on standard error how far it is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
