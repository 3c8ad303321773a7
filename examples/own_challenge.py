"""A browser challenge of one's own, in front of a backend: visitors answer a question before they get in.

python examples/own_challenge.py 8080 127.0.0.1:3000
"""

import asyncio
import secrets
import sys
from collections.abc import Mapping
from html import escape

from smartproxy import SmartProxy
from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    ChallengeRequest,
    Decision,
    PendingChallenge,
    Verification,
)

QUESTIONS = [
    ("What has a face and two hands, but no arms and legs?", {"clock", "watch"}),
    ("What gets wetter the more it dries?", {"towel"}),
]

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>One question</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<form method="post" action="{action}"><label>{question} <input name=answer></label><button>OK</button></form>
"""


class Riddles:
    """A challenge provider. Its methods may be async too, to ask a database or another service."""

    def assess(self, request: ChallengeRequest) -> Assessment:
        """Whether a request without clearance needs a challenge."""
        if "curl" in request.headers.get("user-agent", ""):
            return Assessment(Decision.DENY, reason="curl knows no riddles")
        # Visitors can read the state, but not change it. So it holds the question, and not the answer.
        return Assessment(Decision.CHALLENGE, {"question": secrets.randbelow(len(QUESTIONS))})

    def render(self, request: ChallengeRequest, pending: PendingChallenge) -> ChallengePage:
        """The page, for a new challenge and after a wrong answer."""
        question, _ = QUESTIONS[pending.state["question"]]
        return ChallengePage(
            PAGE.format(action=escape(pending.verify_path), question=escape(question)),
            headers={"Content-Security-Policy": "default-src 'none'; form-action 'self'"},
        )

    async def verify(
        self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]
    ) -> Verification:
        """Whether it is solved. Opening the page again is an answer too, and has no fields."""
        _, answers = QUESTIONS[pending.state["question"]]
        words = payload.get("answer", "").lower().split()
        return Verification(not answers.isdisjoint(words), "answered" if words else "no answer")


def make_proxy(port: int, host: str, backend_port: int) -> SmartProxy:
    route = {
        "name": "app",
        "match": {"ports": port, "protocol": "http"},
        "action": {"type": "forward", "targets": [{"host": host, "port": backend_port}]},
        "security": {"challenge": {"provider_id": "riddles", "challenge_type": "any"}},
    }
    proxy = SmartProxy(routes=[route], listen=["127.0.0.1"])
    proxy.register_challenge_provider("riddles", Riddles())
    return proxy


async def main(port: int, backend: str) -> None:
    host, _, backend_port = backend.rpartition(":")
    async with make_proxy(port, host, int(backend_port)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
