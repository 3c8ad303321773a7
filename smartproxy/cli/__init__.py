"""The command line: one module per verb."""

from __future__ import annotations

import click

from smartproxy.cli.completion import completion
from smartproxy.cli.hash_password import hash_password
from smartproxy.cli.importing import import_config
from smartproxy.cli.route import route
from smartproxy.cli.run import run
from smartproxy.cli.schema import schema
from smartproxy.cli.validate import validate
from smartproxy.cli.version import version


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
def main() -> None:
    """A programmable proxy for TCP, TLS and HTTP.

    Start one with `smartproxy run smartproxy.toml`.

    \b
    Exit codes:
      0  all is well
      1  the configuration is not valid
      2  the command line is not, or a password
      3  the proxy could not start, or a file could not be read
      4  `route` found no route
    """


for command in (run, validate, route, schema, import_config, hash_password, completion, version):
    main.add_command(command)

__all__ = ["main"]
