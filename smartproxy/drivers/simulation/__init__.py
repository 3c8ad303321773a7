"""Programs, clients and backends in virtual time on a faulty network, replayed from a seed.

```python
async def scenario(sim: Simulation) -> None:
    sim.faults = Faults.rough()
    sim.echo_backend("10.0.0.1", 7)
    sim.start_proxy({"routes": [...]})
    connection = await sim.connect(7)
    await connection.send(b"hello")
    assert await connection.receive_exactly(5) == b"hello"

assert not sweep(scenario, seeds=range(1000))
```
"""

from __future__ import annotations

from smartproxy.drivers.simulation.datagram_carrier import DatagramEngine
from smartproxy.drivers.simulation.driver import EngineStuck, SansIoEngine, SimulationDriver
from smartproxy.drivers.simulation.faults import Faults
from smartproxy.drivers.simulation.http_scripts import HttpClient, HttpRequest, HttpResponse, serve_http
from smartproxy.drivers.simulation.network import PROXY_IP, Network
from smartproxy.drivers.simulation.resolver import SimulatedResolver
from smartproxy.drivers.simulation.scripts import ByteConnection, Connection, Listener, UdpSocket
from smartproxy.drivers.simulation.simulation import (
    CLIENT_IP,
    WEATHER_ERRORS,
    ProgramFailed,
    ScriptFailed,
    Simulation,
    SimulationDeadlock,
    SimulationError,
    SimulationOverrun,
)
from smartproxy.drivers.simulation.sweep import Scenario, SweepFailure, run_scenario, sweep
from smartproxy.drivers.simulation.tasks import ScriptCancelled, Task
from smartproxy.drivers.simulation.tls_scripts import TlsConnection
from smartproxy.drivers.simulation.transcript import Transcript

__all__ = [
    "CLIENT_IP",
    "PROXY_IP",
    "WEATHER_ERRORS",
    "ByteConnection",
    "Connection",
    "DatagramEngine",
    "EngineStuck",
    "Faults",
    "HttpClient",
    "HttpRequest",
    "HttpResponse",
    "Listener",
    "Network",
    "ProgramFailed",
    "SansIoEngine",
    "Scenario",
    "ScriptCancelled",
    "ScriptFailed",
    "SimulatedResolver",
    "Simulation",
    "SimulationDeadlock",
    "SimulationDriver",
    "SimulationError",
    "SimulationOverrun",
    "SweepFailure",
    "Task",
    "TlsConnection",
    "Transcript",
    "UdpSocket",
    "run_scenario",
    "serve_http",
    "sweep",
]
