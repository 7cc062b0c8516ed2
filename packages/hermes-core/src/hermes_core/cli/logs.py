"""Logging of the command line: one function, called once by a command that runs something."""

import logging
import sys

import structlog


def stderr_logger(*_: object) -> structlog.PrintLogger:
    """Return a logger to what is stderr now: one that was replaced since may be closed."""
    return structlog.PrintLogger(sys.stderr)


def configure_logging(*, debug: bool = False) -> None:
    """Send structured logs to stderr as `key=value` lines; from warnings up, or everything with `debug`."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"], drop_missing=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.WARNING),
        logger_factory=stderr_logger,
        cache_logger_on_first_use=False,
    )
