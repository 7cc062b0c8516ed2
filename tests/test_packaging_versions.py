"""tools/check_versions.py finds what it is there to find."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("packaging", reason="needs packaging: pip install packaging")


@pytest.fixture
def copy(tmp_path: Path, repository: Path) -> Path:
    """Return a copy of the repository that may be broken."""
    junk = shutil.ignore_patterns("__pycache__", "tests")
    for name in ("packages", "proto", "docs", "tools"):
        shutil.copytree(repository / name, tmp_path / name, ignore=junk)
    return tmp_path


def check(root: Path) -> list[str]:
    command = [sys.executable, "tools/check_versions.py"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == bool(done.stderr), done.stderr
    return done.stderr.splitlines()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_repository_is_consistent(copy):
    assert check(copy) == []


def test_a_floor_that_a_foreign_distribution_could_satisfy(copy):
    edit(copy / "packages/hermes-hw/pyproject.toml", '"hermes-core[grpc]>=1.0.0a1,<2"', '"hermes-core>=0.5"')
    assert any("hermes-hw: 'hermes-core>=0.5' needs a floor" in line for line in check(copy))


def test_a_requirement_without_floor(copy):
    edit(copy / "packages/hermes-hw/pyproject.toml", '"hermes-core[grpc]>=1.0.0a1,<2"', '"hermes-core<2"')
    assert any("needs a floor" in line for line in check(copy))


def test_a_requirement_that_refuses_its_neighbour(copy):
    edit(copy / "packages/hermes-core/pyproject.toml", "hermes-proto>=1.0.0a1,<2", "hermes-proto>=1.5,<2")
    assert any("refuses the hermes-proto" in line for line in check(copy))


def test_a_version_without_changelog(copy):
    edit(copy / "packages/hermes-workload/pyproject.toml", 'version = "1.0.0a1"', 'version = "1.0.0a2"')
    wrong = check(copy)
    assert any("hermes-workload/CHANGELOG.md" in line for line in wrong)
    assert any("| hermes-workload | 1.0.0a2 |" in line for line in wrong)


def test_a_schema_that_the_table_does_not_know(copy):
    (copy / "proto/hermes_proto/hw/v2").mkdir()
    assert any("| hermes-proto |" in line and "v1, v2" in line for line in check(copy))
