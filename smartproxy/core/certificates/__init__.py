"""Which certificate a client is shown."""

from __future__ import annotations

from smartproxy.core.certificates.name_index import CertificateIndex, NameIndex
from smartproxy.core.certificates.served import ServedTls

__all__ = ["CertificateIndex", "NameIndex", "ServedTls"]
