"""Which route takes a connection or a request: compiled indexes, and explanations of their choice."""
