"""The example that makes a challenge of its own, run on real sockets before a backend."""

from __future__ import annotations

import asyncio
import http.client
import re
import runpy
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from smartproxy.core.security.challenge.provider import ChallengeProvider

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_challenge.py"
example = runpy.run_path(str(EXAMPLE))

BROWSER = {"User-Agent": "Mozilla/5.0", "Accept": "text/html"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

Ask = Callable[..., tuple[http.client.HTTPResponse, str]]


async def serve_welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"__smartproxy" not in head
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nwelcome")
    await writer.drain()
    writer.close()


def visit(told: Callable[[Ask], None]) -> None:
    """Run the example, and `told` against it, in a thread."""

    async def run() -> None:
        backend = await asyncio.start_server(serve_welcome, "127.0.0.1", 0)
        proxy: Any = example["make_proxy"](0, *backend.sockets[0].getsockname())
        async with backend, proxy:
            (port,) = proxy.ports.values()

            def ask(method: str, path: str, body: str | None = None, **headers: str) -> Any:
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
                    connection.request(method, path, body, {**BROWSER, **headers})
                    response = connection.getresponse()
                    return response, response.read().decode()

            await asyncio.to_thread(told, ask)

    asyncio.run(run())


def answer_of(page: str) -> str:
    (answers,) = [answers for question, answers in example["QUESTIONS"] if question in page]
    return str(min(answers))


def cookies(response: http.client.HTTPResponse) -> str:
    return "; ".join(line.partition(";")[0] for line in response.headers.get_all("Set-Cookie", []))


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 80


def test_it_is_a_challenge_provider() -> None:
    provider: ChallengeProvider = example["Riddles"]()
    assert callable(provider.assess)


def test_the_right_answer_opens_the_page() -> None:
    def told(ask: Ask) -> None:
        response, page = ask("GET", "/a?b=c")
        assert response.status == 403
        found = re.search('action="([^"]+)"', page)
        assert found is not None
        pending = cookies(response)

        response, again = ask("POST", found[1], urlencode({"answer": "no idea"}), Cookie=pending, **FORM)
        assert response.status == 403
        assert again == page

        # Opening the page once more is no answer.
        response, again = ask("GET", "/a?b=c", Cookie=pending)
        assert (response.status, again) == (403, page)

        answer = urlencode({"answer": f"  the {answer_of(page)} ".title()})
        response, _ = ask("POST", found[1], answer, Cookie=pending, **FORM)
        assert response.status == 303
        assert response.headers["Location"] == "/a?b=c"

        response, page = ask("GET", "/a?b=c", Cookie=cookies(response))
        assert (response.status, page) == (200, "welcome")

    visit(told)


def test_who_is_denied_sees_no_riddle() -> None:
    def told(ask: Ask) -> None:
        response, page = ask("GET", "/", **{"User-Agent": "curl/8.14.1"})
        assert response.status == 403
        assert "Access was refused." in page
        assert "<form" not in page

    visit(told)
