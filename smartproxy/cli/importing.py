"""`smartproxy import`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.markup import escape

from smartproxy.cli.console import CANNOT_START, INVALID_CONFIG, err
from smartproxy.config import ConfigError
from smartproxy.config.importer import import_smartproxy_json


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False))
def import_config(file: str) -> None:
    """Turn FILE, a JSON configuration of @push.rocks/smartproxy, into the native form.

    The result goes to standard output; what could not be carried over is listed on standard error.
    """
    try:
        data = json.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        err.print(f"[red]error[/] {escape(file)}: {error.strerror or error}")
        sys.exit(CANNOT_START)
    except ValueError as error:
        err.print(f"[red]error[/] {escape(file)} is not JSON: {escape(str(error))}")
        sys.exit(INVALID_CONFIG)
    try:
        result = import_smartproxy_json(data)
    except ConfigError as error:
        for problem in error.problems:
            err.print(f"[red]error[/] {escape(str(problem))}")
        sys.exit(INVALID_CONFIG)
    click.echo(result.text_toml, nl=False)
    for line in result.not_carried:
        err.print(f"[yellow]not carried over[/] {escape(line)}")
