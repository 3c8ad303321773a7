"""Drivers: thin pumps between the pure engine and an event loop's sockets, clock and resolver."""
