"""What is wrong with an option of a hardware model, with the place where a scenario has it."""

from collections.abc import Iterator
from contextlib import contextmanager

from hermes_core.api.errors import InputError, Place


def place_of(option: str) -> Place:
    """Return where options stand in a scenario: `hardware.options.NAME`, whose line the reader of it knows."""
    return Place(path=f"hardware.options.{option}")


def option_error(option: str, problem: str, remedy: str | None = None) -> InputError:
    """Return the error of an option: "hardware.options.top_p: must be true or false, found 7"."""
    return InputError(problem, place=place_of(option), remedy=remedy)


@contextmanager
def reading(option: str) -> Iterator[None]:
    """Give what is wrong with the value of an option its place, where it has none of its own (a file's line)."""
    try:
        yield
    except InputError as error:
        if error.place is not None:
            raise
        raise error.at(place_of(option)) from error
