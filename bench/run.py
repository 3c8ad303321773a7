"""Measure smartproxy and its peers in one run: `python -m bench.run --help`.

The proxy has the first core to itself; the load and the backend share the second. Peers take
turns, there and back (A B C, C B A, …), so that a machine that grows slower or faster meanwhile
does so for all of them, and the median of the runs counts.
"""

from __future__ import annotations

import argparse
import http.client
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench import bulk
from bench.backends import Backends
from bench.gates import CASES, NotPassed
from bench.load import LoadFailed
from bench.lookup import lookup_rows
from bench.peers import SERVER_NAME, Assignment, Front, Peer, PeerMissing
from bench.peers.caddy import Caddy
from bench.peers.envoy import Envoy
from bench.peers.haproxy import HAProxy
from bench.peers.nginx import Nginx
from bench.peers.smartproxy import SmartProxy
from bench.processes import Service, ServiceFailed, busy_share, free_port, free_ports
from bench.profiling import profile_text
from bench.report import Report, as_json, as_markdown, update_results
from bench.scenarios import SCENARIOS, Numbers, Proxy, Scenario, WrongAnswer

PEERS: tuple[Peer, ...] = (SmartProxy(), Nginx(), HAProxy(), Envoy(), Caddy())
RESULTS = Path(__file__).resolve().with_name("RESULTS.md")
LOOKUP = "lookup"

PROXY_CORE, LOAD_CORE = 0, 1
BUSY_WATCH_S = 2.0

FAILURES = (
    ServiceFailed,
    WrongAnswer,
    NotPassed,
    LoadFailed,
    OSError,
    EOFError,
    subprocess.SubprocessError,
    http.client.HTTPException,
)


@dataclass(slots=True)
class Bench:
    """One run's settings and places."""

    runs: int
    seconds: float
    bulk_gib: float
    directory: Path
    certificate: Path
    key: Path
    source: int
    backends: Backends
    failures: list[str] = field(default_factory=list)
    unavailable: dict[str, dict[str, str]] = field(default_factory=dict)
    """Why a peer could not be measured (it did not start, or did not answer as it should), by scenario."""

    def start(self, peer: Peer, scenario: Scenario) -> Proxy:
        """Start a peer for a scenario and wait until it listens; raises ServiceFailed."""
        directory = Path(tempfile.mkdtemp(prefix=f"{peer.name}-", dir=self.directory))
        case_ports: dict[str, int] = {}
        if scenario.front is Front.GATED:
            names = [case.name for case in CASES if case.suits(peer.checks)]
            case_ports = dict(zip(names, free_ports(len(names)), strict=True))
        assignment = Assignment(
            front=scenario.front,
            listen_port=next(iter(case_ports.values()), 0) or free_port(),
            backend_port=self.backends.port_behind(scenario.front),
            certificate=self.certificate,
            key=self.key,
            directory=directory,
            case_ports=case_ports,
        )
        command = peer.command(assignment)
        service = Service(peer.name, command, PROXY_CORE, directory, peer.environment(assignment))
        try:
            for port in case_ports.values() or [assignment.listen_port]:
                service.wait_until_listening(port)
        except ServiceFailed:
            service.stop()
            raise
        return Proxy(
            service,
            assignment.listen_port,
            self.seconds,
            self.bulk_gib,
            self.source,
            peer.checks,
            case_ports,
        )

    def failed(self, peer: Peer, scenario: Scenario, error: Exception) -> None:
        place = f"{scenario.name}: {peer.name}"
        print(f"{place}: {error}", file=sys.stderr)
        # The last line says what went wrong where the error carries what the process printed.
        last_line = str(error).strip().rpartition("\n")[2]
        self.failures.append(f"{place}: {last_line}")

    def turn(self, peer: Peer, scenario: Scenario, proxies: dict[str, Proxy]) -> Numbers | None:
        """One peer's numbers of one run; None when there are none, which is then told."""
        try:
            if peer.name not in proxies:
                proxies[peer.name] = self.start(peer, scenario)
            proxy = proxies[peer.name]
            scenario.check(proxy)
        except FAILURES as error:
            self.unavailable.setdefault(scenario.name, {})[peer.name] = str(error)
            self.failed(peer, scenario, error)
            return None
        try:
            numbers = scenario.measure(proxy)
            proxy.service.check_running()
        except FAILURES as error:
            self.failed(peer, scenario, error)
            return None
        return numbers

    def measure(self, scenario: Scenario, peers: list[Peer]) -> dict[str, list[Numbers]]:
        """Every run's numbers, by peer."""
        proxies: dict[str, Proxy] = {}
        results: dict[str, list[Numbers]] = {}
        by_name = {peer.name: peer for peer in peers if scenario.suits(peer.fronts, peer.checks)}
        try:
            for turn in range(self.runs):
                for name in list(by_name) if turn % 2 == 0 else list(reversed(by_name)):
                    numbers = self.turn(by_name[name], scenario, proxies)
                    if numbers is None:
                        del by_name[name]
                        continue
                    results.setdefault(name, []).append(numbers)
                    told = ", ".join(f"{number} {value:.4g}" for number, value in numbers.items())
                    print(f"{scenario.name} {turn + 1}/{self.runs} {name}: {told}", file=sys.stderr)
                    if scenario.fresh:
                        proxies.pop(name).service.stop()
        finally:
            for proxy in proxies.values():
                proxy.service.stop()
        # A peer that failed on the way has no result.
        return {name: runs for name, runs in results.items() if name in by_name}


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed ECDSA P-256 certificate for SERVER_NAME, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SERVER_NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = directory / "certificate.pem", directory / "key.pem"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate_path, key_path


def installed_peers(wanted: list[str]) -> tuple[list[Peer], dict[str, str]]:
    """Those of the wanted peers that are here, and their versions."""
    peers: list[Peer] = []
    versions: dict[str, str] = {}
    for peer in PEERS:
        if peer.name not in wanted:
            continue
        try:
            versions[peer.name] = peer.version()
        except PeerMissing as missing:
            print(f"Left out: {missing}", file=sys.stderr)
        else:
            peers.append(peer)
    return peers, versions


def parse_arguments() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(
        prog="python -m bench.run", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[*names, LOOKUP],
        metavar="NAME",
        help=f"measure this scenario; may be given again (of: {', '.join([*names, LOOKUP])})",
    )
    parser.add_argument(
        "--peers",
        default=",".join(peer.name for peer in PEERS),
        metavar="A,B",
        help="measure these only (default: %(default)s)",
    )
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs each (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="S", help="of load in each run (default: %(default)s)"
    )
    parser.add_argument(
        "--bulk-gib",
        type=float,
        default=2.0,
        metavar="G",
        help="moved in each bulk run (default: %(default)s)",
    )
    parser.add_argument(
        "--profile",
        choices=names,
        metavar="NAME",
        help="instead: run smartproxy alone in this scenario under Python's profiler, and print the profile",
    )
    parser.add_argument("--output", choices=["markdown", "json"], default="markdown")
    parser.add_argument(
        "--update-results",
        action="store_true",
        help=f"write the tables into {RESULTS.parent.name}/{RESULTS.name} too",
    )
    arguments = parser.parse_args()
    unknown = set(arguments.peers.split(",")) - {peer.name for peer in PEERS}
    if unknown:
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    return arguments


def measure_all(
    arguments: argparse.Namespace, peers: list[Peer], directory: Path
) -> tuple[Report, list[str]]:
    certificate, key = make_certificate(directory)
    backends = Backends(directory, LOAD_CORE)
    bench = Bench(
        runs=arguments.runs,
        seconds=arguments.seconds,
        bulk_gib=arguments.bulk_gib,
        directory=directory,
        certificate=certificate,
        key=key,
        source=bulk.make_source(),
        backends=backends,
    )
    report = Report(
        runs=arguments.runs,
        seconds=arguments.seconds,
        bulk_gib=arguments.bulk_gib,
        busy_share=busy_share(BUSY_WATCH_S),
    )
    try:
        backends.wait_until_listening()
        for scenario in SCENARIOS:
            if arguments.only and scenario.name not in arguments.only:
                continue
            try:
                results = bench.measure(scenario, peers)
            except PeerMissing as missing:
                print(f"{scenario.name}: left out: {missing}", file=sys.stderr)
                continue
            for name, runs in results.items():
                for number in runs[0]:
                    report.add(scenario.name, name, number, [run[number] for run in runs])
        report.unavailable = bench.unavailable
    finally:
        backends.stop()
    return report, bench.failures


def profile(arguments: argparse.Namespace, directory: Path) -> int:
    """Run one scenario on smartproxy alone, and print where its time went."""
    arguments.only, arguments.runs = [arguments.profile], 1
    path = directory / "profile"
    _, failures = measure_all(arguments, [SmartProxy(path)], directory)
    if failures:
        return 1
    print(profile_text(path))
    return 0


def main() -> int:
    arguments = parse_arguments()
    if len(os.sched_getaffinity(0)) < 2:
        print("This takes two cores: one for the proxy, one for the load and the backend.", file=sys.stderr)
        return 2
    os.sched_setaffinity(0, {LOAD_CORE})
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    directory = Path(tempfile.mkdtemp(prefix="smartproxy-bench-"))
    try:
        if arguments.profile:
            return profile(arguments, directory)
        peers, versions = installed_peers(arguments.peers.split(","))
        report, failures = measure_all(arguments, peers, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report.versions = versions
    if not arguments.only or LOOKUP in arguments.only:
        report.lookups = lookup_rows()
    print(as_json(report) if arguments.output == "json" else as_markdown(report))
    if arguments.update_results:
        update_results(RESULTS, report)
    for failure in failures:
        print(f"Failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
