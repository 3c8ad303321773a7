"""`python -m smartproxy.cli`."""

from smartproxy.cli import main

main(prog_name="smartproxy")
