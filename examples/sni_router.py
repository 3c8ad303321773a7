"""An SNI router on blocking sockets and threads, with nothing of smartproxy but `smartproxy.core.wire`.

    python examples/sni_router.py 8443 app.example.com=127.0.0.1:9443 mail.example.com=127.0.0.1:9444

Every TLS connection goes, undecrypted, to the backend of the name its ClientHello asks for.
"""

import contextlib
import socket
import sys
import threading
import time

from smartproxy.core.wire import client_hello as tls

HELLO_TIMEOUT_S = 10.0

Backends = dict[str, tuple[str, int]]


def read_hello(client: socket.socket, decoder: tls.ClientHelloDecoder) -> tls.ClientHello:
    """The client's hello. Raises OSError if the client leaves or takes too long."""
    deadline = time.monotonic() + HELLO_TIMEOUT_S
    while True:
        client.settimeout(max(0.001, deadline - time.monotonic()))
        data = client.recv(65536)
        if not data:
            raise ConnectionError("the client left before its hello was complete")
        if hello := decoder.receive_data(data):
            client.settimeout(None)
            return hello


def carry(source: socket.socket, sink: socket.socket) -> None:
    """Carry one direction to its end and pass the end on; when it breaks, break the other too."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def route(client: socket.socket, backends: Backends) -> None:
    """Send one connection to the backend it names, or tell it why not."""
    decoder = tls.ClientHelloDecoder()
    with client, contextlib.suppress(OSError):
        try:
            address = backends.get(read_hello(client, decoder).server_name or "")
        except tls.ClientHelloError as error:
            client.sendall(tls.encode_alert(tls.AlertLevel.FATAL, error.alert))
            return
        if address is None:
            client.sendall(tls.encode_alert(tls.AlertLevel.FATAL, tls.AlertDescription.UNRECOGNIZED_NAME))
            return
        with socket.create_connection(address) as backend:
            backend.sendall(decoder.buffered)
            upload = threading.Thread(target=carry, args=(client, backend))
            upload.start()
            carry(backend, client)
            upload.join()


def run(listener: socket.socket, backends: Backends) -> None:
    """Serve until the listener is shut down."""
    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=route, args=(listener.accept()[0], backends), daemon=True).start()


if __name__ == "__main__":
    routes: Backends = {}
    for argument in sys.argv[2:]:
        name, host, port = argument.replace("=", ":").split(":")
        routes[name] = (host, int(port))
    run(socket.create_server(("", int(sys.argv[1]))), routes)
