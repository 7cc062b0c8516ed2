"""The root command: global options, and the commands that are installed."""

from importlib.metadata import EntryPoint, version
from typing import Annotated, Any, Final

import typer
import typer.core
import typer.main

from hermes_core.cli.discovery import command_entries, one_line_help

Command = Any
"""A click command; typer has moved the class between its versions."""

_ELSEWHERE: Final = {
    "hw": "hermes-hw",
    "workload": "hermes-workload",
    **dict.fromkeys(("calibrate", "capacity", "compare", "emit", "export", "optimize", "replicate"), "hermes-analysis"),
    **dict.fromkeys(("report", "sweep", "validate", "whatif"), "hermes-analysis"),
}
"""Commands that other distributions bring, to name them where one is missing."""


class LazyGroup(typer.core.TyperGroup):
    """A group whose commands are entry points: listed without importing them, imported when invoked."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of the installed commands."""
        return list(_entries(ctx))

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Command:  # type: ignore[override]
        """Return something that has the command's name and its line of help."""
        entry = _entries(ctx).get(cmd_name)
        return typer.core.TyperCommand(cmd_name, help=one_line_help(entry)) if entry is not None else None

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> tuple[str | None, Command, list[str]]:  # type: ignore[override]
        """Import the command that is invoked."""
        entry = _entries(ctx).get(args[0])
        if entry is None:
            if args[0] in _ELSEWHERE:
                from hermes_core.api.errors import MissingExtraError  # noqa: PLC0415 - as below

                owner = _ELSEWHERE[args[0]]
                raise MissingExtraError(f"the command {args[0]!r} comes with {owner}, which is not installed")
            # For its "did you mean".
            self.commands = {name: typer.core.TyperCommand(name) for name in _entries(ctx)}
            return super().resolve_command(ctx, args)
        return args[0], load_command(entry), args[1:]


def load_command(entry: EntryPoint) -> Command:
    """Import the command that `entry` names. Raises `MissingExtraError` when a package that it needs is absent."""
    try:
        target = entry.load()
    except ModuleNotFoundError as error:
        owner = entry.dist.name if entry.dist is not None else "its package"
        from hermes_core.api.errors import MissingExtraError  # noqa: PLC0415 - brings NumPy, rarely needed

        raise MissingExtraError(
            f"the command {entry.name!r} needs {error.name}, which is not installed: pip install '{owner}[cli]'"
        ) from error
    if isinstance(target, typer.Typer):
        group = typer.main.get_group(target)
        group.name = entry.name
        return group
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command(entry.name)(target)
    return typer.main.get_command(single)


def _entries(ctx: typer.Context) -> dict[str, EntryPoint]:
    if ctx.obj is None:
        ctx.obj = command_entries()
    entries: dict[str, EntryPoint] = ctx.obj
    return entries


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help takes half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:  # noqa: FBT001 - typer calls it so
    if value:
        typer.echo(f"hermes {version('hermes-core')}")
        raise typer.Exit


@app.callback()
def root(
    *,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. Also: HERMES_DEBUG=1.")] = False,
) -> None:
    """Simulate how large language models are served: latency, throughput, energy and cost, before you deploy."""
    # Both are acted on elsewhere: the version by its callback, --debug by `main`, which sees it wherever it stands.
    del show_version, debug
