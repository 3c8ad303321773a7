"""`smartproxy validate`."""

from __future__ import annotations

import click
from rich.markup import escape

from smartproxy.cli.console import exit_invalid, load_or_exit, out, show_problem
from smartproxy.config import ConfigError, compile_configuration


@click.command()
@click.argument("config", type=click.Path(dir_okay=False))
def validate(config: str) -> None:
    """Check CONFIG, certificates included, and say everything that is wrong with it."""
    loaded = load_or_exit(config)
    try:
        compiled = compile_configuration(loaded.config)
    except ConfigError as error:
        exit_invalid(config, error)
    for problem in compiled.warnings:
        show_problem(problem, warning=True)
    table = compiled.configuration.table
    routes = len(table.routes)
    ports = ", ".join(str(port) for port in table.listening_ports())
    udp_ports = ", ".join(str(port) for port in table.udp_listening_ports())
    out.print(
        f"[green]ok[/] {escape(config)}: {routes} route{'s' if routes != 1 else ''}, "
        f"listening on {ports or ('no TCP port' if udp_ports else 'no port')}"
        + (f", and for HTTP/3 on UDP {udp_ports}" if udp_ports else "")
    )
