"""Options that later versions bring. Until then they are refused by name: an option that is
silently without effect, a rate limit or a password above all, is worse than none.

A feature that arrives deletes its lines here and adds its fields to the models.
"""

from __future__ import annotations

KEYS: dict[str, frozenset[str]] = {
    "proxy": frozenset(
        {
            "acme",
            "cert_provision_concurrency",
            "cert_provision_failure_cooldown",
            "cert_provision_fallback_to_acme",
            "cert_provision_function",
            "cert_provision_timeout",
            "cert_store",
            "metrics",
        }
    ),
    "action": frozenset({"datagram_handler", "forwarding_engine", "nftables"}),
    "handler": frozenset({"asgi", "http_server", "line_protocol", "proxy"}),
    "tls": frozenset({"acme"}),
    "udp": frozenset({"max_datagram_size", "max_sessions_per_ip", "session_timeout"}),
}
"""Keys by the section of the model they will belong to."""

VALUES: dict[tuple[str, str], frozenset[str]] = {
    ("match", "protocol"): frozenset({"quic", "udp"}),
    ("target", "backend_transport"): frozenset({"udp"}),
    ("tls", "certificate"): frozenset({"auto"}),
}
"""Values by section and key."""

FUNCTIONS: frozenset[tuple[str, str]] = frozenset({("action", "handler")})
"""Keys, by section, that will take a function."""
