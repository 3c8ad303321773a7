"""`smartproxy completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for SHELL.

    For bash: `smartproxy completion bash > ~/.local/share/bash-completion/completions/smartproxy`.
    """
    from smartproxy.cli import main

    completer_class = get_completion_class(shell)
    assert completer_class is not None
    click.echo(completer_class(main, {}, "smartproxy", "_SMARTPROXY_COMPLETE").source())
