"""Every command and every piece of Python that the documentation shows is run.

A fenced block marked `python` is a script that stands alone. One marked `console` is a session: lines that begin with
`$ ` are commands, lines that begin with `> ` right after one (or follow a trailing backslash) continue it, the others
are what they print. The blocks of one document run in order, in one temporary folder with a copy of examples/,
docs/ and benchmarks/. Words after `console` or `python`:

* `compare` (console): what is printed to stdout must be what the block shows; `...` stands for any text.
* `exit=N`: the block's last command must exit with N (otherwise every command must exit with 0).
* `skip=REASON` (last): the block is not run; the reason is for the reader of the test report.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted(REPOSITORY.glob("packages/*/README.md")),
    *sorted(REPOSITORY.glob("docs/**/*.md")),
]
BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>console|python)\b *(?P<words>[^\n]*)\n(?P<body>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)
TIMEOUT_S = 120


@dataclass(frozen=True)
class Block:
    """One block of a document that can be run."""

    line: int
    commands: list[tuple[str, str]]  # with what the block shows of its output
    compare: bool
    exit_code: int
    skip: str


def read_session(body: str) -> list[tuple[str, str]]:
    """Return the (command, output shown) pairs of a block."""
    commands: list[tuple[str, str]] = []
    continued = False
    for line in body.splitlines():
        if continued or (line.startswith("> ") and commands and not commands[-1][1]):
            commands[-1] = (f"{commands[-1][0]}\n{line.removeprefix('> ')}", "")
        elif line.startswith("$ "):
            commands.append((line.removeprefix("$ "), ""))
        elif commands:
            command, shown = commands[-1]
            commands[-1] = (command, f"{shown}{line}\n")
        continued = (continued or line.startswith("$ ")) and line.endswith("\\")
    return commands


def read_blocks(text: str) -> list[Block]:
    blocks = []
    for match in BLOCK.finditer(text):
        words, _, skip = match["words"].partition("skip=")
        rest = set(words.split())
        exits = {word for word in rest if re.fullmatch(r"exit=\d+", word)}
        line = text.count("\n", 0, match.start()) + 1
        assert rest <= exits | {"compare"}, f"line {line}: unknown words after the language: {sorted(rest)}"
        indent = len(match["indent"])
        body = "".join(f"{each[indent:]}\n" for each in match["body"].splitlines())
        code = int(exits.pop().removeprefix("exit=")) if exits else 0
        commands = [(f"python - <<'END'\n{body}END", "")] if match["language"] == "python" else read_session(body)
        blocks.append(Block(line, commands, "compare" in rest, code, skip.strip()))
    return blocks


def matches(shown: str, printed: str) -> bool:
    """Tell whether the printed text is the shown one, where `...` is any text."""
    parts = (re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(".*?".join(parts), printed.strip(), re.DOTALL) is not None


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HOME": str(folder),
        "NO_COLOR": "1",
        "COLUMNS": "120",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def run_block(name: str, block: Block, folder: Path) -> None:
    for number, (command, shown) in enumerate(block.commands, start=1):
        done = run(command, folder)
        wanted = block.exit_code if number == len(block.commands) else 0
        told = f"{name}, block at line {block.line}: $ {command}\n"
        assert done.returncode == wanted, f"{told}exit code {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback (most recent call last)" not in done.stderr, f"{told}{done.stderr}"
        if block.compare:
            assert matches(shown, done.stdout), f"{told}printed:\n{done.stdout}\nthe document shows:\n{shown}"


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_run(path, tmp_path):
    for name in ("examples", "docs", "benchmarks"):
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for block in read_blocks(path.read_text()):
        if not block.skip:
            run_block(name_of(path), block, tmp_path)


def test_commands_are_found():
    """A change of the marks must not switch this test off: the README shows at least the main job."""
    commands = [
        command for block in read_blocks((REPOSITORY / "README.md").read_text()) for command, _ in block.commands
    ]
    assert any("hermes run" in command for command in commands)


DOCUMENT = """
```console compare
$ echo one; echo two \\
> three
one
... three
```

```console
$ cat <<'END'
> four
> END
four
> five
```

- in a list:

  ```console exit=3 skip=takes an hour
  $ exit 3
  ```

```sh
$ never
```

```python
print(5)
```
"""


def test_reading_blocks():
    first, here, second, third = read_blocks(DOCUMENT)
    assert first == Block(2, [("echo one; echo two \\\nthree", "one\n... three\n")], compare=True, exit_code=0, skip="")
    assert here.commands == [("cat <<'END'\nfour\nEND", "four\n> five\n")]
    assert second == Block(19, [("exit 3", "")], compare=False, exit_code=3, skip="takes an hour")
    assert third.commands == [("python - <<'END'\nprint(5)\nEND", "")]


def test_a_wrong_command_is_seen(tmp_path):
    run_block("ok", read_blocks(DOCUMENT)[0], tmp_path)
    for words, body in [
        ("", "$ false"),
        ("exit=2", "$ exit 1"),
        ("compare", "$ echo one\ntwo"),
        ("", "$ false\n$ true"),
    ]:
        (block,) = read_blocks(f"```console {words}\n{body}\n```\n")
        with pytest.raises(AssertionError, match="block at line 1"):
            run_block("wrong", block, tmp_path)


def test_an_unknown_word_is_refused():
    with pytest.raises(AssertionError, match="unknown words"):
        read_blocks("```console comapre\n$ true\n```\n")
