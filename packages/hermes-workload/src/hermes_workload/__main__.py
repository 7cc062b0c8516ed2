"""`python -m hermes_workload`: the commands of `hermes workload` where hermes-core is not installed."""

try:
    import typer  # noqa: F401 - asked for first, to say plainly what is missing
except ImportError:
    raise SystemExit("error: the commands need typer and rich\n  pip install typer rich") from None

from hermes_workload.cli import app

app(prog_name="python -m hermes_workload")
