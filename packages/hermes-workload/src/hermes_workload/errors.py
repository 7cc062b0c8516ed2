"""What goes wrong with a workload, said in one message."""


class WorkloadError(ValueError):
    """Something a user wrote, or a file a user named, cannot be used as it is.

    The text is complete: where (file, line, column, path), what (with the value), and what to write instead.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: str | None = None,
        path: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = file
        self.line = line
        self.column = column
        self.path = path
        self.remedy = remedy
        super().__init__(_text(problem, file, line, column, path, remedy))


class MissingExtraError(WorkloadError):
    """An optional dependency is needed; the message names the `pip install`."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency", remedy=f"pip install 'hermes-workload[{extra}]'")


def _text(
    problem: str, file: str | None, line: int | None, column: str | None, path: str | None, remedy: str | None
) -> str:
    place = file or ""
    if line is not None:
        place = f"{place}:{line}" if place else f"line {line}"
    if column is not None:
        place = f"{place}, column {column}" if place else f"column {column}"
    if path:
        place = f"{place} ({path})" if place else path
    text = f"{place}: {problem}" if place else problem
    return f"{text}\n  {remedy}" if remedy else text
