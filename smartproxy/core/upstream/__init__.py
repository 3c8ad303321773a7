"""The way to a backend: which host, over which connection, and what is known of its health."""
