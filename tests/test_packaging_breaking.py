"""The breaking check refuses what it must and lets additions through. Needs the `buf` command (tox -e buf)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("buf") is None, reason="needs the buf command: pip install buf-bin")


@pytest.fixture
def released(tmp_path: Path, repository: Path) -> Path:
    """Return a copy of the schemas and the checking tool, with an image of the schemas as released."""
    for name in ("proto", "tools"):
        shutil.copytree(repository / name, tmp_path / name)
    shutil.copy(repository / "buf.yaml", tmp_path)
    (tmp_path / "proto/released").mkdir(exist_ok=True)
    subprocess.run(["buf", "build", "-o", "proto/released/test.binpb"], cwd=tmp_path, check=True)
    return tmp_path


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/check_breaking.py"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def edit(root: Path, old: str, new: str) -> None:
    path = root / "proto/hermes_proto/common/v1/column.proto"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_unchanged_schemas_are_compatible(released):
    done = check(released)
    assert (done.returncode, done.stderr) == (0, "")
    assert "test.binpb" in done.stdout


def test_an_added_field_is_compatible(released):
    edit(released, "bytes data = 2;", "bytes data = 2;\n  // Added.\n  string note = 1000;")
    assert check(released).returncode == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [("bytes data = 2;", "bytes values = 2;"), ("bytes data = 2;", "string data = 2;"), ("bytes data = 2;", "")],
    ids=["renamed", "other-type", "removed"],
)
def test_a_broken_field_is_refused(released, old, new):
    edit(released, old, new)
    done = check(released)
    assert done.returncode == 1
    assert "test.binpb" in done.stderr
    assert "column.proto" in done.stdout


def test_without_an_image_it_says_so(released):
    (released / "proto/released/test.binpb").unlink()
    shutil.rmtree(released / "proto/released")
    done = check(released)
    assert done.returncode == 0
    assert "nothing to break" in done.stdout
