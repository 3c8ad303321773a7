"""`smartproxy version`."""

from __future__ import annotations

import platform
import ssl

import click

from smartproxy import __version__


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"smartproxy {__version__} (Python {platform.python_version()}, {ssl.OPENSSL_VERSION})")
