"""What the tests with real peers share: an authority, its certificates, and curl."""

from __future__ import annotations

import pytest
import trustme
from curl_client import Curl
from proxy_process import BACKEND_NAME
from real_peers import Certificate, FindProgram, Trust


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("trust")
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    ca_file = folder / "ca.pem"
    ca_file.write_bytes(authority.cert_pem.bytes())
    return Trust(
        ca_file,
        Certificate(authority, folder, "*.example.com", "localhost"),
        Certificate(authority, folder, BACKEND_NAME),
    )


@pytest.fixture(scope="module")
def fetch(real_program: FindProgram, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Curl:
    return Curl(real_program("curl"), trust.ca_file, tmp_path_factory.mktemp("curl"))
