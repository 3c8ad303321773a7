"""smartproxy measured beside nginx, HAProxy, Envoy and Caddy, on the same machine in the same run."""
