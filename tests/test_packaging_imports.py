"""The import contracts in the top-level pyproject.toml refuse what they must. Needs import-linter (tox -e imports)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="needs import-linter: tox -e imports")


@pytest.fixture
def copy(tmp_path: Path, repository: Path) -> Path:
    """Return a copy of the packages' sources and of the contracts."""
    shutil.copy(repository / "pyproject.toml", tmp_path)
    for source in repository.glob("packages/*/src"):
        target = tmp_path / source.relative_to(repository)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def check(root: Path) -> subprocess.CompletedProcess[str]:
    sources = os.pathsep.join(str(path) for path in sorted(root.glob("packages/*/src")))
    environment = {**os.environ, "PYTHONPATH": sources, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("distribution", "line", "named"),
    [
        ("hermes-core", "import hermes_hw", "hermes_core.intruder -> hermes_hw"),
        ("hermes-proto", "import hermes_core.api", "hermes_proto.intruder -> hermes_core.api"),
        ("hermes-workload", "import hermes_analysis", "hermes_workload.intruder -> hermes_analysis"),
        ("hermes-hw", "import hermes_core.serving.plan", "hermes_hw.intruder -> hermes_core.serving.plan"),
        ("hermes-analysis", "import hermes_core.api", "hermes_analysis.intruder -> hermes_core.api"),
    ],
)
def test_a_forbidden_import_is_refused(copy, distribution, line, named):
    folder = copy / "packages" / distribution / "src" / distribution.replace("-", "_")
    (folder / "intruder.py").write_text(f'"""Imports what it may not."""\n\n{line}\n')
    done = check(copy)
    assert done.returncode != 0
    assert named in done.stdout
