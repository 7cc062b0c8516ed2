"""Every module of the package can be the first that is imported."""

import subprocess
import sys
from pathlib import Path

import hermes_analysis

FOLDER = Path(hermes_analysis.__file__).parent


def test_every_top_level_module_can_be_imported_first() -> None:
    names = [f"hermes_analysis.{path.stem}" for path in sorted(FOLDER.glob("*.py")) if not path.stem.startswith("__")]
    names += [f"hermes_analysis.{path.parent.name}" for path in sorted(FOLDER.glob("*/__init__.py"))]
    assert "hermes_analysis.summary" in names
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    for known in [key for key in sys.modules if key.split('.')[0] == 'hermes_analysis']:\n"
        "        del sys.modules[known]\n"
    )
    answer = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
