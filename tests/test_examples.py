"""Each example runs as it lies there, prints something a reader can check, and is listed in examples/README.md."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = REPOSITORY / "examples"
SCENARIOS = sorted([*EXAMPLES.glob("*.yaml"), *EXAMPLES.glob("pipelines/*.yaml")])
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
TIMEOUT_S = 120


def name_of(path: Path) -> str:
    return str(path.relative_to(EXAMPLES))


def run(command: list[str], tmp_path: Path) -> str:
    """Run a command in a temporary folder with a copy of examples/; return what it printed."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    here = str(Path(sys.executable).parent)
    path = f"{here}{os.pathsep}{os.environ.get('PATH', '')}"  # an example launches a process in `python`
    environment = {**os.environ, "HOME": str(tmp_path), "NO_COLOR": "1", "PATH": path}
    done = subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("path", SCENARIOS, ids=name_of)
def test_scenario_runs(path, tmp_path):
    assert run(["hermes", "run", f"examples/{name_of(path)}"], tmp_path).strip() != ""


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_script_runs(path, tmp_path):
    assert run(["python", f"examples/{path.name}"], tmp_path).strip() != ""


@pytest.mark.parametrize("path", [*SCENARIOS, *SCRIPTS], ids=name_of)
def test_example_is_short_and_begins_with_a_sentence(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 60
    assert lines[0].startswith(("# ", '"""'))


@pytest.mark.parametrize("path", [*SCENARIOS, *SCRIPTS], ids=name_of)
def test_example_is_listed(path):
    assert f"({name_of(path)})" in (EXAMPLES / "README.md").read_text()


def test_the_quickstart_is_there():
    """Without examples the tests above would pass by testing nothing."""
    assert EXAMPLES / "quickstart.yaml" in SCENARIOS
