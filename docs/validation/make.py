# ruff: noqa: INP001, T201, S603 - a script
"""Makes the report of this folder anew: tables and plots, from measurements that are not part of the project.

    python docs/validation/make.py FOLDER

FOLDER holds experiments, `silicon_open.csv` and `splitwise_static_open.csv`; what is not there is left as it is. Takes
a minute, and five more for `silicon_open.csv`, on two processors.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PARTS = {"experiments": "", "closed-loop": "silicon_open.csv", "static-batch": "splitwise_static_open.csv"}


def main() -> None:
    """Run `hermes validate` for each part, and the fits of what stands in front of engines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: Path(scratch) / f"{name}.json" for name in PARTS}
        for name, file in PARTS.items():
            if not (folder / file).exists():
                print(f"{folder / file} is not there: {name} stays as it is", file=sys.stderr)
                continue
            report, plot = HERE / f"{name}.md", HERE / f"{name}.svg"
            options = ["--report", str(report), "--plot", str(plot), "--json", str(found[name])]
            command = [sys.executable, "-m", "hermes_core.cli", "validate", str(folder / file), *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            print(f"wrote {report} and {plot}", file=sys.stderr)
        fits = {
            "front-end": ("front_end.py", found["experiments"]),
            "tokenising": ("tokenising.py", folder / PARTS["closed-loop"], found["closed-loop"]),
        }
        for name, (script, *inputs) in fits.items():
            if inputs[-1].exists():
                fitted = [sys.executable, str(HERE / script), *map(str, inputs)]
                answer = subprocess.run(fitted, check=True, stdout=subprocess.PIPE, text=True).stdout
                (HERE / f"{name}.txt").write_text(answer)


if __name__ == "__main__":
    main()
