"""A message that names an option names one that there is: of the command that the text is about."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[1] / "packages"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")
NAMED = re.compile(r"`hermes((?: [a-z][a-z0-9-]*)+)([^`]*)`")
"""A command in backquotes, `hermes hw price --json FILE`."""
FOREIGN = {
    "hermes_analysis/emit/": "words of the engines' own command lines",
    "hermes_hw/conformance/pytest_plugin.py": "options of pytest, which the module adds",
    "hermes_hw/server/": "options of a hardware service, which is a program of its own: argparse knows them",
    "hermes_proto/": "generated",
}
OTHERS = {
    "ray start --head",
    "vllm bench serve --save-result",
    "pip install --force-reinstall",
    "vllm bench serve --append-result",
    "--save-detailed",
    "--random-range-ratio",
    "--scheduler-recv-interval",
    "--decode-context-parallel-size",
}
"""Options of other programs, with the words before them where an option of ours could be meant."""


@cache
def options_of_commands() -> dict[str, frozenset[str]]:
    """Return the options of every command by its words, "hw price"; those of the root hold everywhere."""
    from hermes_core.cli.root import app, load_command  # noqa: PLC0415 - needs the extra "cli"
    from typer.main import get_command  # noqa: PLC0415

    everywhere = {"--help", *(text for one in get_command(app).params for text in (*one.opts, *one.secondary_opts))}
    found = {}

    def walk(words: tuple[str, ...], command: object) -> None:
        mine = {text for one in command.params for text in (*one.opts, *one.secondary_opts)}
        found[" ".join(words)] = frozenset(text for text in everywhere | mine if text.startswith("--"))
        for name, child in getattr(command, "commands", {}).items():
            walk((*words, name), child)

    for entry in entry_points(group="hermes.commands"):
        walk((entry.name,), load_command(entry))
    return found


def commands_of(place: str) -> set[str]:
    """Return the commands that a module may speak of: its own, by the folder or file it is in, else all of its package.

    A search is judged by `optimize`, sweeps by `sweep`; what several commands share may name any option of theirs.
    """
    package, *parts = place.removesuffix(".py").split("/")
    known = options_of_commands()
    home = entry_modules()
    words = {word for part in parts for word in (part, part.removesuffix("_command"))}
    own = {name for name, module in home.items() if name.split()[0] in words and module.split(".")[0] == package}
    if not own or "sweep" in own:  # axes and options of sweeps serve searches too
        own = {name for name, module in home.items() if module.split(".")[0] == package}
    return {name for name in known if name.split()[0] in own}


@cache
def entry_modules() -> dict[str, str]:
    """Return the module of every command."""
    return {entry.name: entry.module for entry in entry_points(group="hermes.commands")}


def texts(source: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module with their lines; parts of an f-string are one, with a space for what is put in."""
    tree = ast.parse(source.read_bytes())
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else " " for part in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def unknown(place: str, text: str) -> Iterator[str]:
    """Yield the options in a text that do not exist where it says so."""
    known = options_of_commands()
    for foreign in OTHERS:
        text = text.replace(foreign, "")
    for words, rest in NAMED.findall(text):
        named = words.split()
        while named and " ".join(named) not in known:
            named.pop()
        if not named:
            yield f"`hermes{words}`: there is no such command"
        for option in OPTION.findall(rest):
            if option not in known.get(" ".join(named), ()):
                yield f"`hermes{words}` has no {option}"
    allowed = {option for command in commands_of(place) for option in known[command]}
    for option in OPTION.findall(NAMED.sub("", text)):
        if option not in allowed:
            yield f"none of {', '.join(sorted(commands_of(place)))} has {option}"


def sources() -> list[str]:
    """Return the modules of all packages, "hermes_core/cli/root.py", with a text in which there is an option."""
    files = [file for package in sorted(PACKAGES.glob("*/src")) for file in sorted(package.rglob("*.py"))]
    places = [str(file.relative_to(next(p for p in file.parents if p.name == "src"))) for file in files]
    return [
        place
        for place, file in zip(places, files, strict=True)
        if not place.startswith(tuple(FOREIGN)) and OPTION.search(file.read_text())
    ]


@pytest.mark.parametrize("place", sources())
def test_options_in_texts_exist(place):
    pytest.importorskip("typer", reason="extra cli")
    source = next(PACKAGES.glob(f"*/src/{place}"))
    wrong = [f"{place}:{line}: {what}" for line, text in texts(source) for what in unknown(place, text)]
    assert not wrong, "\n".join(wrong)


def test_what_is_wrong_would_be_found():
    pytest.importorskip("typer", reason="extra cli")
    assert list(unknown("hermes_core/cli/run_command.py", "give --sede 3")) != []
    assert list(unknown("hermes_core/cli/run_command.py", "give --seed 3, or `hermes hw price --batch 3`")) == []
    assert list(unknown("hermes_core/cli/run_command.py", "see `hermes hw price --bach 3`")) != []
    assert list(unknown("hermes_core/cli/run_command.py", "see `hermes hardware price`")) != []
    assert list(unknown("hermes_analysis/whatif/running.py", "give --fleet replicas=1..4")) != []
    assert list(unknown("hermes_analysis/capacity/fleet.py", "give --fleet replicas=1..4")) == []


def test_every_exception_is_needed():
    everything = "".join(file.read_text() for file in PACKAGES.glob("*/src/**/*.py"))
    for foreign in OTHERS:
        words = foreign.split()
        assert words[-1] in everything, foreign
    for folder in FOREIGN:
        assert list(PACKAGES.glob(f"*/src/{folder}*")) or list(PACKAGES.glob(f"*/src/{folder}")), folder
