"""`smartproxy route`."""

from __future__ import annotations

import json
import sys
from urllib.parse import urlsplit

import click

from smartproxy.cli.console import NO_ROUTE, exit_invalid, load_or_exit
from smartproxy.config import ConfigError, compile_configuration
from smartproxy.core.configuration import MatchProtocol, Transport
from smartproxy.core.routing.explain import RouteQuery
from smartproxy.core.security.explain import explain_gate

_DEFAULT_PORTS = {"http": 80, "https": 443}


def _split_header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(f"{text!r} is not of the form 'Name: value'", param_hint="-H")
    return name.strip().lower().encode(), value.strip().encode()


@click.command()
@click.argument("config", type=click.Path(dir_okay=False))
@click.argument("url")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A request header.")
@click.option("-X", "--method", default="GET", show_default=True, help="The request's method.")
@click.option("--client-ip", default="127.0.0.1", show_default=True, help="The client's address.")
@click.option("--port", type=int, help="The port it connects to, if not the URL's.")
@click.option("--tls-version", type=click.Choice(["TLSv1.2", "TLSv1.3"]), help="Default for https: TLSv1.3.")
@click.option("--http3", is_flag=True, help="The request comes over HTTP/3.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def route(
    config: str,
    url: str,
    headers: tuple[str, ...],
    method: str,
    client_ip: str,
    port: int | None,
    tls_version: str | None,
    http3: bool,
    as_json: bool,
) -> None:
    """Explain which route of CONFIG a request for URL gets, why each other one does not, and what
    the route asks before it serves.

    URL is http://…, https://…, or tcp://HOST:PORT and tls://HOST:PORT for connections that are not HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "tcp", "tls"):
        raise click.BadParameter("begin it with http://, https://, tcp:// or tls://", param_hint="URL")
    if http3 and parts.scheme != "https":
        raise click.BadParameter("goes with https:// only", param_hint="--http3")
    try:
        url_port = parts.port
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from None
    listening_port = port or url_port or _DEFAULT_PORTS.get(parts.scheme)
    if listening_port is None:
        raise click.BadParameter("name the port", param_hint="URL")
    loaded = load_or_exit(config)
    try:
        configuration = compile_configuration(loaded.config).configuration
    except ConfigError as error:
        exit_invalid(config, error)
    secure = parts.scheme in ("https", "tls")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    query = RouteQuery(
        port=listening_port,
        client_ip=client_ip,
        tls=secure,
        host=parts.hostname,
        path=target,
        method=method.upper().encode("latin-1", "replace"),
        fields=[_split_header(header) for header in headers],
        tls_version=tls_version,
        transport=Transport.UDP if http3 else Transport.TCP,
        protocol=MatchProtocol.HTTP if parts.scheme in ("http", "https") else MatchProtocol.TCP,
    )
    try:
        explanation = configuration.table.explain(query)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--client-ip") from None
    winner = explanation.winner
    steps = explain_gate(configuration, winner, query) if winner is not None else []
    if as_json:
        gate = [step.to_dict() for step in steps]
        click.echo(json.dumps({**explanation.to_dict(), "gate": gate}, indent=2))
    else:
        click.echo(explanation.to_text())
        for step in steps:
            click.echo(f"  {step.outcome:<7}  {step.check:<14}  {step.detail}")
    if explanation.winner is None:
        sys.exit(NO_ROUTE)
