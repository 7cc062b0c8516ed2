"""What asking a service came to."""

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Statistics:
    """Counts of one session. Times are wall-clock seconds: shown, never recorded."""

    questions: int = 0
    """Asked by the compiler."""
    distinct: int = 0
    """Of these, different ones: those that were not in the memo."""
    cached: int = 0
    """Of the distinct ones, answered by the disk cache."""
    exported: int = 0
    """Rows of tables that the service exported."""
    refused: int = 0
    """Of the distinct ones, outside what the service prices."""
    calls: int = 0
    """Calls that carried the rest."""
    request_bytes: int = 0
    response_bytes: int = 0
    retries: int = 0
    reopened: int = 0
    unlabelled: int = 0
    """Answers that did not say where they come from."""
    launch_s: float = 0.0
    waiting_s: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Return all figures by name."""
        return asdict(self)
