"""`python -m smartproxy`."""

from smartproxy.cli import main

main(prog_name="smartproxy")
