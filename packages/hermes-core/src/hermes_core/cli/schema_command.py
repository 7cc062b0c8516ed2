"""`hermes schema`: the JSON Schema of scenarios."""

import typer


def schema() -> None:
    """Print the JSON Schema of scenarios, for editors."""
    from hermes_core.config.schema import schema_text  # noqa: PLC0415 - only what runs is loaded

    typer.echo(schema_text(), nl=False)
