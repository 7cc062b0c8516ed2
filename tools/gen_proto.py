"""Generate packages/hermes-proto/src/hermes_proto from proto/. With --check, fail if what is committed differs.

Needs the pins of tools/gen-requirements.txt.
"""

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
TARGET = ROOT / "packages/hermes-proto/src/hermes_proto"
PACKAGE_DOC = '"""Generated protobuf code of the HERMES schemas."""\n'


def generate(into: Path) -> None:
    """Write the generated package to `into`/hermes_proto."""
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("hermes_proto/**/*.proto"))
    outputs = [f"--{kind}_out={into}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    # The mypy plug-ins lie beside the interpreter, which need not be on the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *outputs, *files],
        check=True,
        env={**os.environ, "PATH": path},
    )
    package = into / "hermes_proto"
    with_service = {path for path in package.rglob("*_pb2_grpc.py") if "Servicer" in path.read_text()}
    for module in package.rglob("*_pb2_grpc.py*"):
        if module.with_suffix(".py") not in with_service:
            module.unlink()
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text(PACKAGE_DOC)
    (package / "py.typed").touch()


def differences(left: Path, right: Path) -> list[str]:
    """Return the relative paths that differ, or that only one side has."""
    found = {
        str(path.relative_to(side))
        for side in (left, right)
        for path in side.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    return sorted(
        name
        for name in found
        if not (
            (left / name).exists() and (right / name).exists() and filecmp.cmp(left / name, right / name, shallow=False)
        )
    )


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "hermes_proto"
        if check:
            wrong = differences(fresh, TARGET)
            for name in wrong:
                print(f"differs from proto/: {name} (run: tox -e proto)", file=sys.stderr)
            return 1 if wrong else 0
        shutil.rmtree(TARGET, ignore_errors=True)
        shutil.copytree(fresh, TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
