"""Which certificate a client is shown."""

from __future__ import annotations

from smartproxy.core.certificates.name_index import CertificateIndex, NameIndex

__all__ = ["CertificateIndex", "NameIndex"]
