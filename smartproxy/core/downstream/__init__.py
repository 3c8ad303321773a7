"""A client's connection from its first byte: PROXY header, peek, route, access, TLS, protocol."""
