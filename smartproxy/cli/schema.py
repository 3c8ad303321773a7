"""`smartproxy schema`."""

from __future__ import annotations

import json

import click

from smartproxy.config import json_schema


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    click.echo(json.dumps(json_schema(), indent=2))
