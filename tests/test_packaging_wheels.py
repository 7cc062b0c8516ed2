"""Each distribution works when installed alone, from its wheel, with only what it declares.

Needs `uv` and `hatchling` (tox -e wheel-NAME) and the package index for third-party requirements.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytest.importorskip("uv", reason="needs uv: tox -e wheel-NAME")
pytest.importorskip("hatchling", reason="needs hatchling: tox -e wheel-NAME")

DISTRIBUTIONS = ["hermes-proto", "hermes-core", "hermes-hw", "hermes-workload", "hermes-analysis"]

# Too heavy to be loaded by an import of a base package, whoever brought them.
HEAVY = ["duckdb", "fastapi", "matplotlib", "optuna", "pandas", "plotly", "polars", "pyarrow", "ray", "rich", "scipy"]
HEAVY += ["sklearn", "starlette", "typer", "uvicorn"]

# Where a distribution's import name is not its own name with underscores.
IMPORT_NAMES = {"ruamel.yaml": "ruamel", "grpcio": "grpc", "grpcio-reflection": "grpc_reflection", "pyyaml": "yaml"}
IMPORT_NAMES |= {"scikit-learn": "sklearn", "opentelemetry-sdk": "opentelemetry", "salib": "SALib"}

# Run in the fresh environment: what an import of the package loads, and which of its modules cannot be imported.
PROBE = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
loaded = sorted({name.partition(".")[0] for name in sys.modules})
missing = {}
def failed(name):
    error = sys.exc_info()[1]
    missing[name] = getattr(error, "name", None) or type(error).__name__ + ": " + str(error)
for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=failed):
    if module.name.rpartition(".")[2] == "__main__":
        continue
    try:
        importlib.import_module(module.name)
    except Exception:
        failed(module.name)
print(json.dumps({"file": package.__file__, "loaded": loaded, "missing": missing}))
"""


def project(repository: Path, name: str) -> dict:
    return tomllib.loads((repository / "packages" / name / "pyproject.toml").read_text())["project"]


def closure(repository: Path, name: str) -> list[str]:
    """Return the distribution and the first-party ones it requires, without extras of its own."""
    found = [name]
    for current in found:
        names = (Requirement(text).name for text in project(repository, current)["dependencies"])
        found.extend(other for other in names if other in DISTRIBUTIONS and other not in found)
    return found


def extra_modules(repository: Path, name: str) -> set[str]:
    """Return the top-level modules that only the extras of a distribution bring, first-party ones included."""
    extras = project(repository, name).get("optional-dependencies", {}).values()
    names = {Requirement(text).name.lower() for extra in extras for text in extra} - {name}
    first_party = [other for other in names if other in DISTRIBUTIONS]
    nested = {module for other in first_party for module in extra_modules(repository, other)}
    return nested | {IMPORT_NAMES.get(other, other.replace("-", "_")) for other in names}


@pytest.fixture(scope="session", params=DISTRIBUTIONS)
def name(request) -> str:
    """Return the distribution under test."""
    return request.param


@pytest.fixture(scope="session")
def wheels(name, repository, tmp_path_factory) -> Path:
    """Return a folder with the wheels of the distribution and of what it requires of ours."""
    folder = tmp_path_factory.mktemp("wheels")
    for each in closure(repository, name):
        # A copy: hatchling must not see, nor leave, anything in the working tree.
        source = tmp_path_factory.mktemp("source") / each
        shutil.copytree(repository / "packages" / each, source, ignore=shutil.ignore_patterns("__pycache__", "tests"))
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def wheel(name, wheels) -> Path:
    (path,) = wheels.glob(f"{name.replace('-', '_')}-*.whl")
    return path


@pytest.fixture(scope="session")
def environment(name, wheels, repository, tmp_path_factory) -> Path:
    """Return the folder of a fresh environment with the distribution and nothing else installed."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--no-project", "-p", sys.executable, str(folder)], check=True)
    # With its version: the public index has a foreign hermes-core 0.5.1.
    wanted = f"{name}=={project(repository, name)['version']}"
    install = ["pip", "install", "-q", "-p", str(folder), "--find-links", str(wheels), wanted]
    done = subprocess.run([*uv, *install], capture_output=True, text=True, check=False, cwd=wheels)
    assert done.returncode == 0, done.stderr
    return folder


def run(environment: Path, *command: str) -> subprocess.CompletedProcess[str]:
    # Nothing of the environment that runs this test may help.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    arguments = [str(environment / "bin" / command[0]), *command[1:]]
    return subprocess.run(arguments, cwd=environment, env=clean, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def probe(name, environment) -> dict:
    done = run(environment, "python", "-c", PROBE, name.replace("-", "_"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_wheel_has_types_and_licence_and_nothing_foreign(name, wheel):
    module = name.replace("-", "_")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (licence,) = (entry for entry in names if entry.endswith("licenses/LICENSE"))
        text = archive.read(licence).decode()
    assert f"{module}/py.typed" in names
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert [entry for entry in names if not re.match(rf"{module}(-[^/]+\.dist-info)?/", entry)] == []
    assert [entry for entry in names if "__pycache__" in entry or entry.endswith(".pyc")] == []


def test_wheel_has_every_source_file(name, wheel, repository):
    """What the code reads at run time (catalogues, examples of data) must travel with it."""
    source = repository / "packages" / name / "src"
    files = (path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert sorted({str(path.relative_to(source)) for path in files} - names) == []


def test_it_comes_from_the_wheel(probe, environment):
    assert Path(probe["file"]).is_relative_to(environment)


def test_import_loads_nothing_heavy(probe):
    assert sorted(set(probe["loaded"]) & set(HEAVY)) == []


def test_every_module_imports_or_names_an_extra(name, probe, repository):
    """A module may need what an extra brings, and nothing else that is not declared."""
    allowed = extra_modules(repository, name)
    wrong = {module: lacks for module, lacks in probe["missing"].items() if lacks.partition(".")[0] not in allowed}
    assert wrong == {}


def test_the_command_without_its_extra_says_what_to_install(name, environment, repository):
    if "hermes-core" not in closure(repository, name):
        assert not (environment / "bin/hermes").exists()
        return
    done = run(environment, "hermes", "--help")
    assert done.returncode != 0
    assert "hermes-core[cli]" in done.stderr
    assert "Traceback" not in done.stderr
