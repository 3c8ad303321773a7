"""Who a request's user is: Basic (RFC 7617) and bearer tokens (RFC 6750, RFC 7519)."""
