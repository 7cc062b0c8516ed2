"""The exceptions of hermes-analysis. Each message is one sentence for a person, with the remedy."""


def one_line(message: object) -> str:
    """Return a message of several lines in one: what is wrong; its remedy."""
    said = [line.strip() for line in str(message).splitlines() if line.strip()]
    return " ".join(line if line[-1] in ".;:," else f"{line};" for line in said).removesuffix(";")


class AnalysisError(ValueError):
    """Root of all errors that hermes-analysis raises on purpose; `exit_code` is what a command exits with."""

    exit_code: int = 2


class RecordError(AnalysisError):
    """A run record cannot be used at all: absent, foreign, or without a manifest."""


class MissingExtraError(AnalysisError):
    """An optional library is needed. The message names the `pip install`."""

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what} needs an optional library. Install it with: pip install 'hermes-analysis[{extra}]'")


class OutputError(AnalysisError):
    """A result could not be written, or would have overwritten one."""
