"""Check that versions, changelogs, first-party requirements and docs/compatibility.md agree.

Needs `packaging`. Prints one line for each thing that is wrong, with the remedy, and exits with 1.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
# An unrelated hermes-core 0.5.1 is on the public index: a lower floor could be satisfied by it.
LOWEST_FLOOR = Version("1.0.0a1")
SCHEMAS = ("common", "workload", "core", "hw", "analysis")
Project = dict[str, Any]
IMPORT = re.compile(r"(?:from|import)\s+hermes_proto\.(\w+)\.(v\d+\w*)")


def read_projects(root: Path) -> dict[str, Project]:
    """Return the [project] table of each distribution, by name."""
    tables = (tomllib.loads(path.read_text())["project"] for path in sorted(root.glob("packages/*/pyproject.toml")))
    return {table["name"]: table for table in tables}


def wrong_requirements(projects: dict[str, Project]) -> list[str]:
    """Return what is wrong with the requirements of one first-party distribution on another."""
    wrong = []
    for name, project in projects.items():
        extras = project.get("optional-dependencies", {}).values()
        for text in [*project["dependencies"], *(text for extra in extras for text in extra)]:
            requirement = Requirement(text)
            if requirement.name not in projects or requirement.name == name:
                continue  # an extra that takes in another of its own distribution is met by that very version
            floors = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
            if not floors or max(floors) < LOWEST_FLOOR:
                wrong.append(f"{name}: '{text}' needs a floor of at least {LOWEST_FLOOR} (>={LOWEST_FLOOR})")
            current = projects[requirement.name]["version"]
            if not requirement.specifier.contains(current, prereleases=True):
                wrong.append(f"{name}: '{text}' refuses the {requirement.name} {current} beside it")
    return wrong


def wrong_changelogs(root: Path, projects: dict[str, Project]) -> list[str]:
    """Return the distributions whose newest changelog heading is not their version."""
    wrong = []
    for name, project in projects.items():
        headings = re.findall(r"^## (\S+)", (root / "packages" / name / "CHANGELOG.md").read_text(), re.MULTILINE)
        released = [heading for heading in headings if heading.lower() != "unreleased"]
        if released[:1] != [project["version"]]:
            wrong.append(f"packages/{name}/CHANGELOG.md: the newest version must be '## {project['version']}'")
    return wrong


def expected_rows(root: Path, projects: dict[str, Project]) -> list[str]:
    """Return the rows that the compatibility table must have: which schema versions each distribution speaks."""
    rows = []
    for name, project in projects.items():
        source = root / "packages" / name / "src"
        if name == "hermes-proto":
            found = {(path.parent.name, path.name) for path in (root / "proto/hermes_proto").glob("*/v*")}
        else:
            found = {pair for path in sorted(source.rglob("*.py")) for pair in IMPORT.findall(path.read_text())}
        cells = [", ".join(sorted(version for schema, version in found if schema == column)) for column in SCHEMAS]
        rows.append("| " + " | ".join([name, project["version"], *(cell or "-" for cell in cells)]) + " |")
    return rows


def main(root: Path = ROOT) -> int:
    """Run every check on the repository at `root`."""
    projects = read_projects(root)
    table = (root / "docs/compatibility.md").read_text().splitlines()
    missing = [row for row in expected_rows(root, projects) if row not in table]
    wrong = [
        *wrong_requirements(projects),
        *wrong_changelogs(root, projects),
        *(f"docs/compatibility.md: the table must have the row {row}" for row in missing),
    ]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
