"""Exchanges on connections that carry many at once: HTTP/2 and HTTP/3, on either side."""
