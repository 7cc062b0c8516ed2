"""What the distributions declare agrees with what the documents and the tools say of it."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("packaging", reason="needs packaging: pip install packaging")

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

DISTRIBUTIONS = ["hermes-proto", "hermes-core", "hermes-hw", "hermes-workload", "hermes-analysis"]
REPOSITORY = Path(__file__).resolve().parent.parent
UNTESTED_EXTRAS = {("hermes-hw", "profile")}  # PyTorch takes gigabytes, and what it adds runs on an accelerator


def projects() -> dict[str, dict]:
    return {
        name: tomllib.loads((REPOSITORY / "packages" / name / "pyproject.toml").read_text()) for name in DISTRIBUTIONS
    }


def requirements() -> list[tuple[str, str, Requirement]]:
    """Return every third-party run-time requirement as (distribution, extra or "", requirement)."""
    found = []
    for name, table in projects().items():
        extras = {"": table["project"]["dependencies"], **table["project"].get("optional-dependencies", {})}
        for extra, texts in extras.items():
            parsed = (Requirement(text) for text in texts)
            found.extend((name, extra, each) for each in parsed if each.name not in DISTRIBUTIONS)
    return found


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of every body row of every Markdown table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rulers = {index for index, row in enumerate(rows) if set("".join(row)) <= set("-: ")}
    return [row for index, row in enumerate(rows) if index not in rulers and index + 1 not in rulers]


def test_each_dependency_has_its_line_and_each_line_its_dependency():
    """docs/dependencies.md says of each library who needs it, why, what it replaces, its licence and size."""
    documented = {}
    for row in table_rows((REPOSITORY / "docs/dependencies.md").read_text()):
        assert len(row) == 6, f"a row of docs/dependencies.md has not six cells: {row}"
        assert all(row), f"a row of docs/dependencies.md has an empty cell: {row}"
        assert re.fullmatch(r"[\d.]+ (kB|MB)", row[5]), f"the last cell must be a size such as '19 MB': {row}"
        documented[canonicalize_name(row[0])] = {part.strip() for part in row[1].split(",")}
    declared: dict[str, set[str]] = {}
    for name, extra, requirement in requirements():
        where = f"{name}[{extra}]" if extra else name
        declared.setdefault(canonicalize_name(requirement.name), set()).add(where)
    assert documented == declared


def test_oldest_requirements_are_the_floors():
    """The -oldest environments test exactly what the packages promise: the highest floor that a library has."""
    lines = (REPOSITORY / "tools/oldest-requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    floors: dict[str, str] = {}
    for name, extra, requirement in requirements():
        found = [part.version for part in requirement.specifier if part.operator == ">="]
        assert len(found) == 1, f"{name}[{extra}]: '{requirement}' needs a lower bound, which is tested"
        before = floors.get(requirement.name)
        floors[requirement.name] = found[0] if before is None or before in SpecifierSet(f"<{found[0]}") else before
    assert pinned == floors


def test_test_environments_install_every_extra():
    """An extra that no environment installs is an extra that nothing tests."""
    installed = set(re.findall(r"-e packages/([\w-]+)\[([\w,-]+)\]", (REPOSITORY / "tox.ini").read_text()))
    tested = {(name, extra) for name, extras in installed for extra in extras.split(",")}
    offered = {
        (name, extra)
        for name, table in projects().items()
        for extra in table["project"].get("optional-dependencies", {})
    }
    assert tested == offered - UNTESTED_EXTRAS


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_say_the_same_of_themselves(name):
    table = projects()[name]
    project = table["project"]
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11"
    assert "Typing :: Typed" in project["classifiers"]
    assert table["build-system"]["build-backend"] == "hatchling.build"
    folder = REPOSITORY / "packages" / name
    assert (folder / "LICENSE").read_text() == (REPOSITORY / "LICENSE").read_text()
    assert (folder / "src" / name.replace("-", "_") / "py.typed").is_file()
    assert project["name"] in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_entry_points_lead_to_something(name):
    """A plug-in table that names what is not there would fail only when a user asks for it."""
    project = projects()[name]["project"]
    groups = [project.get("scripts", {}), *project.get("entry-points", {}).values()]
    for target in (target for group in groups for target in group.values()):
        module, _, attribute = target.partition(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None, f"{name}: the entry point '{target}' names no module"
        assert hasattr(importlib.import_module(module), attribute), f"{name}: '{target}' names nothing in its module"


def test_first_party_entry_point_groups_are_documented():
    """CONTRIBUTING.md has the recipe for each group that the packages fill."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    groups = {group for table in projects().values() for group in table["project"].get("entry-points", {})}
    assert sorted(group for group in groups if f"`{group}`" not in text and group.startswith("hermes.")) == []


def test_continuous_integration_runs_the_command_of_the_readme():
    command = "python3 -m venv .venv && .venv/bin/pip install -q tox && .venv/bin/tox"
    assert command in (REPOSITORY / ".ci/run").read_text()
    assert command in (REPOSITORY / "README.md").read_text()
