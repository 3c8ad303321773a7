"""Photographs the pages of the built-in challenges, half-way through, into docs/images.

    .venv/bin/python tools/challenge_screenshots.py [FOLDER]

Needs Chromium. Each page is taken in light and dark colours, and as a phone shows it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import trustme

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integration")]

from challenge_site import ChallengeBrowser, ChallengeSite  # noqa: E402 - from the path above

SITES: dict[str, tuple[dict[str, Any], str, str]] = {
    # Settings, the challenge's id, and what is true half-way through.
    "wait": ({"wait_seconds": 8}, "any", "document.querySelector('[role=timer]').textContent === '5'"),
    # Of this id no nonce below 30 million is a solution.
    "proof-of-work": (
        {"difficulty": 23},
        "photographed-76",
        "document.querySelector('progress').value > 0.4",
    ),
}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"dark": True},
    "phone": {"width": 390, "height": 844},
}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    binary = shutil.which("chromium")
    if binary is None:
        raise SystemExit("chromium is not installed; to get it: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        # The browser is told of a certificate to trust, though nothing here is served by HTTPS.
        certificate = Path(profile) / "certificate.pem"
        trustme.CA().issue_cert("example.com").cert_chain_pems[0].write_to_path(certificate)
        with ChallengeBrowser(binary, Path(profile), certificate, "--hide-scrollbars") as browser:
            for name, (settings, challenge_id, half_way) in SITES.items():
                for look, window in LOOKS.items():
                    with ChallengeSite(name, settings, challenge_id=challenge_id) as site:
                        browser.set_up(**window)
                        browser.load(site.url)
                        while not browser.evaluate(half_way):
                            time.sleep(0.02)
                        (folder / f"challenge-{name}-{look}.png").write_bytes(browser.screenshot())


if __name__ == "__main__":
    main()
