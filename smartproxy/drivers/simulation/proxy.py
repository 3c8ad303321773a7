"""A whole proxy in a simulation, from what a configuration file would say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smartproxy.challenges import register_built_in
from smartproxy.config import ProxyConfig, compile_configuration, parse_config
from smartproxy.core.configuration import Configuration
from smartproxy.core.engine import Engine

if TYPE_CHECKING:
    from smartproxy.drivers.simulation.simulation import Simulation

IDLE_CHECK_S = 0.05


class SimulatedProxy:
    """An engine on the virtual network, listening on the ports of its routes.

    Make one with `Simulation.start_proxy`. `driver.records` holds what it recorded.
    """

    def __init__(self, simulation: Simulation, config: ProxyConfig | Mapping[str, Any]) -> None:
        configuration = _compile(config)
        self._simulation = simulation
        self.engine = Engine(configuration, simulation.env)
        register_built_in(self.engine)
        self.driver = simulation.start_engine(self.engine)
        self._listen(configuration)
        self._listen_udp()
        self.driver.apply(self.engine.handle_started)

    @property
    def ports(self) -> dict[int, int]:
        """Each configured port and the port it listens on; they differ where 0 was configured."""
        return self.driver.listening_ports()

    @property
    def udp_ports(self) -> dict[int, int]:
        """Each configured port that is served on UDP, and the UDP port it has."""
        return self.driver.listening_udp_ports()

    def update(self, config: ProxyConfig | Mapping[str, Any]) -> None:
        """Replace the configuration, atomically: a bad one changes nothing.

        Raises what `smartproxy.config` raises for it, and OSError for a port in use.
        """
        configuration = _compile(config)
        self._listen(configuration)
        self.driver.apply(lambda now: self.engine.handle_configuration(configuration, now))
        register_built_in(self.engine)
        self._listen_udp()
        for port in set(self.ports) - set(configuration.table.listening_ports()):
            self.driver.stop_listening(port)

    def drain(self) -> None:
        """Stop gracefully: accept nothing more, finish what is under way.

        UDP sockets stay until `shut_down`: what is under way over QUIC goes through them.
        """
        for port in list(self.ports):
            self.driver.stop_listening(port)
        self.driver.apply(self.engine.handle_drain)

    async def stop(self) -> None:
        """Drain, and after the configuration's graceful shutdown time reset what is left."""
        self.drain()
        simulation = self._simulation
        give_up_at = simulation.now + self.engine.configuration.timeouts.graceful_shutdown_s
        while (self.driver.sockets or self.engine.connection_count) and simulation.now < give_up_at:
            await simulation.sleep(IDLE_CHECK_S)
        self.shut_down()

    def shut_down(self) -> None:
        """Stop at once: reset every connection that is left."""
        for port in list(self.ports):
            self.driver.stop_listening(port)
        self.driver.apply(self.engine.handle_shutdown)
        self.driver.datagrams.close()

    def _listen_udp(self) -> None:
        # After the engine has the configuration, which says what it wants on UDP.
        configuration = self.engine.configuration
        for port in configuration.table.udp_listening_ports():
            if port not in self.udp_ports:
                self.driver.listen_udp(port, configuration.listen_hosts, self.ports.get(port))

    def _listen(self, configuration: Configuration) -> None:
        opened: list[int] = []
        try:
            for port in configuration.table.listening_ports():
                if port not in self.ports:
                    self.driver.listen(port, configuration.listen_hosts)
                    opened.append(port)
        except OSError:
            for port in opened:
                self.driver.stop_listening(port)
            raise


def _compile(config: ProxyConfig | Mapping[str, Any]) -> Configuration:
    model = config if isinstance(config, ProxyConfig) else parse_config(config)
    configuration = compile_configuration(model).configuration
    if configuration.quic_engine is None:
        # The one whose every decision is taken in Python, from the clock and the entropy it is given.
        configuration.quic_engine = "aioquic"
    return configuration
