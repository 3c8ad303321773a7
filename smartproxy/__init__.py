"""A programmable proxy on pure protocol state machines, with thin asyncio and trio drivers."""

__version__ = "0.1.0"
