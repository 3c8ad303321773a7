"""Full TLS 1.3 handshakes, one after the other, none of them resumed."""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import time
from multiprocessing.connection import Connection

SOCKET_TIMEOUT_S = 10.0


def _shake_hands(port: int, server_name: str, seconds: float, result: Connection) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    count = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=SOCKET_TIMEOUT_S) as connection,
            context.wrap_socket(connection, server_hostname=server_name) as tls,
        ):
            # Wait for the server's end, so that every handshake counted was finished on both sides.
            tls.shutdown(socket.SHUT_WR)
            while tls.recv(65536):
                pass
        count += 1
    result.send(count)


def count_handshakes(port: int, server_name: str, seconds: float, clients: int) -> int:
    """Let `clients` processes shake hands with 127.0.0.1:`port` for so long; returns how many were done."""
    context = multiprocessing.get_context("fork")
    results, workers = [], []
    for _ in range(clients):
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_shake_hands, args=(port, server_name, seconds, sender), daemon=True)
        worker.start()
        sender.close()
        results.append(receiver)
        workers.append(worker)
    total = sum(int(receiver.recv()) for receiver in results)
    for worker in workers:
        worker.join()
    return total
