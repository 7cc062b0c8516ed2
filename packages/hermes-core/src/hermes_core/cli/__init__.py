"""The command `hermes`. Start-up is kept light: only the command that is asked for is imported."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType

__all__ = ["main"]

_SIGNALLED = 128
"""What a shell adds to the number of a signal for the exit code of who was ended by it."""
_INTERRUPTED = 130
"""That of SIGINT."""
_UNUSABLE = 1
"""As any output that cannot be written."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return its exit code.

    A `HermesError` becomes one message on stderr. `--debug`, anywhere, or HERMES_DEBUG=1 adds the traceback. SIGTERM
    and SIGHUP stop a command as Ctrl-C does.
    """
    from hermes_core.cli.stopping import ends_like_ctrl_c  # noqa: PLC0415 - as below

    with ends_like_ctrl_c() as came:
        code = _guarded(argv)
    return _SIGNALLED + came[0] if came and code == _INTERRUPTED else code


def _guarded(argv: Sequence[str] | None) -> int:
    """Run the command line, and make one message and an exit code of whatever goes wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in options or os.environ.get("HERMES_DEBUG", "0") not in {"", "0"}
    arguments = [item for item in options if item != "--debug"] + arguments[len(options) :]
    if argv is None and not debug:
        sys.excepthook = _report_fault
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        _tell("stopped")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough; keep the interpreter from telling it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in _FULL:
            where = f"{error.filename}" if error.filename else "the output"
            _tell(f"error: cannot write {where}: {error.strerror}\n  make room on the disk, or write elsewhere")
        elif error.errno in _DENIED and error.filename:
            _tell(f"error: cannot use {error.filename}: {error.strerror}\n  allow it, or name another place")
        else:
            raise
        return _UNUSABLE
    except Exception as error:
        # Imported only now: with it comes NumPy, which `hermes --help` has no use for.
        from hermes_core.api.errors import HermesError, Interrupted  # noqa: PLC0415

        if not isinstance(error, HermesError):
            raise
        if debug:
            traceback.print_exc()
        _tell(f"stopped: {error}" if isinstance(error, Interrupted) else f"error: {error}")
        return error.exit_code


def _run(arguments: list[str]) -> int:
    try:
        from hermes_core.cli.root import app  # noqa: PLC0415 - typer is an extra
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"typer", "rich"}:
            raise
        from hermes_core.api.errors import MissingExtraError  # noqa: PLC0415

        raise MissingExtraError(
            f"the command needs {error.name}, which is not installed: pip install 'hermes-core[cli]'"
        ) from None
    try:
        app(args=arguments, prog_name="hermes")
    except SystemExit as done:
        if isinstance(getattr(done.__context__, "__cause__", None), KeyboardInterrupt):
            raise KeyboardInterrupt from None  # typer makes an exit of Ctrl-C, without a word
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _report_fault(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """Tell of an exception that nobody foresaw, without a traceback."""
    _tell(f"error: {kind.__name__}: {error}\n  This is a fault in HERMES or a plug-in; --debug shows where.")
