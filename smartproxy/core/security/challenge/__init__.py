"""Browser challenges: which requests need one, the signed cookies, and the flow between."""
