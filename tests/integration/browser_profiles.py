"""Chromium with as many profiles as are wanted, and as many tabs in each: every page shown is on record."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from headless_chromium import Chromium

PATIENCE_S = 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """A document that a tab has got. `protocol` as browsers name it: "http/1.1", "h2", "h3"."""

    url: str
    """Without the fragment."""
    status: int
    protocol: str
    headers: dict[str, str]
    """Lower-case names."""


class Tab:
    """One page after another, as long as it is open."""

    def __init__(self, browser: ProfiledChromium, session: str) -> None:
        self._browser = browser
        self._session = session
        self._documents: dict[str, Page] = {}
        self._loaded: list[str] = []
        self._credentials: tuple[str, str] | None = None
        self._refuses: dict[str, int] = {}

    def call(self, method: str, **parameters: Any) -> Any:
        """A DevTools command to this tab, and its answer."""
        return self._browser.call(method, self._session, **parameters)

    @property
    def pages(self) -> list[Page]:
        """The pages that have loaded, in order."""
        return [self._documents[each] for each in self._loaded if each in self._documents]

    @property
    def documents(self) -> list[Page]:
        """The pages that have begun to come, in order, those that went elsewhere at once among them."""
        return list(self._documents.values())

    def take_event(self, method: str, parameters: dict[str, Any]) -> None:
        """For the browser alone."""
        if method == "Network.responseReceived" and parameters["type"] == "Document":
            response = parameters["response"]
            headers = {name.lower(): value for name, value in response["headers"].items()}
            self._documents[parameters["loaderId"]] = Page(
                response["url"].partition("#")[0], response["status"], response.get("protocol", ""), headers
            )
        elif method == "Page.lifecycleEvent" and parameters["name"] == "load":
            self._loaded.append(parameters["loaderId"])
        elif method == "Fetch.requestPaused":
            self._resume(parameters["requestId"], parameters["request"]["url"])
        elif method == "Fetch.authRequired":
            answer = {"response": "CancelAuth"}
            if self._credentials is not None:
                name, password = self._credentials
                answer = {"response": "ProvideCredentials", "username": name, "password": password}
            self._browser.send(
                "Fetch.continueWithAuth",
                self._session,
                requestId=parameters["requestId"],
                authChallengeResponse=answer,
            )

    def _resume(self, request_id: str, url: str) -> None:
        for part, status in self._refuses.items():
            if part in url:
                self._browser.send(
                    "Fetch.fulfillRequest", self._session, requestId=request_id, responseCode=status
                )
                return
        self._browser.send("Fetch.continueRequest", self._session, requestId=request_id)

    def go(self, url: str) -> None:
        """Set off, and wait for nothing."""
        self.call("Page.navigate", url=url)

    def arrives(self, url: str, status: int = 200, *, since: int = 0) -> Page:
        """The page of `url` with that status, once it has loaded; of those after the first `since`."""

        def found() -> Page | None:
            return next(
                (page for page in self.pages[since:] if (page.url, page.status) == (url, status)), None
            )

        return self.until(found, f"{status} {url}")

    def until(self, found: Callable[[], T | None], what: str) -> T:
        """What `found` finds, once this tab has got far enough."""
        return self._browser.wait_for(found, what, lambda: self.documents)

    def visit(self, url: str, status: int = 200) -> Page:
        """Go there, and wait until it is there."""
        since = len(self.pages)
        self.go(url)
        return self.arrives(url.partition("#")[0], status, since=since)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in a page that stays."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self) -> str:
        """What the page has to read, as it is laid out."""
        return str(self.evaluate("document.body.innerText"))

    def log_in_as(self, name: str, password: str) -> None:
        """Answer whoever asks for a name and a password, as its user would."""
        self._credentials = (name, password)
        self.call("Fetch.enable", handleAuthRequests=True)

    def log_in_as_nobody(self) -> None:
        """Leave whoever asks for a name and a password without."""
        self.call("Fetch.enable", handleAuthRequests=True)

    def answer_instead(self, part_of_url: str, status: int) -> None:
        """Let no request for such a URL through, and answer it with nothing but `status`."""
        self._refuses[part_of_url] = status
        self.call("Fetch.enable")

    def without_scripts(self) -> None:
        """Switch JavaScript off."""
        self.call("Emulation.setScriptExecutionDisabled", value=True)


class Profile:
    """Somebody's browser: cookies of its own."""

    def __init__(self, browser: ProfiledChromium) -> None:
        self._browser = browser
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]

    def tab(self) -> Tab:
        """A new one, empty."""
        return self._browser.open_tab(self._context)

    def cookies(self) -> dict[str, dict[str, Any]]:
        """All its cookies by name, as DevTools describes them."""
        cookies = self._browser.call("Storage.getCookies", browserContextId=self._context)["cookies"]
        return {cookie["name"]: cookie for cookie in cookies}

    def close(self) -> None:
        """Close its tabs and forget it."""
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)


class ProfiledChromium(Chromium):
    """See the module."""

    def __init__(self, binary: str, folder: Path, cert_file: Path, *switches: str) -> None:
        self._tabs: dict[str, Tab] = {}
        super().__init__(binary, folder, cert_file, *switches)

    def call(self, method: str, session: str = "", **parameters: Any) -> Any:
        """A DevTools command, and its answer."""
        return self._call(method, session, **parameters)

    def send(self, method: str, session: str, **parameters: Any) -> None:
        """A DevTools command whose answer does not matter."""
        self._next_id += 1
        message = {"id": self._next_id, "method": method, "params": parameters, "sessionId": session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")

    def _call(self, method: str, session: str = "", **parameters: Any) -> Any:
        # Events that are dealt with while the answer is awaited may send commands too.
        self._next_id += 1
        call_id = self._next_id
        message: dict[str, Any] = {"id": call_id, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self._next_message(deadline)
            if answer.get("id") == call_id:
                assert "error" not in answer, answer
                return answer["result"]

    def _next_message(self, deadline: float) -> Any:
        message = super()._next_message(deadline)
        tab = self._tabs.get(message.get("sessionId", ""))
        if tab is not None and "method" in message:
            tab.take_event(message["method"], message["params"])
        return message

    def open_tab(self, context: str) -> Tab:
        """A new tab of a browser context."""
        target = self._call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        session = attached["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for command in ("Page.enable", "Network.enable"):
            tab.call(command)
        tab.call("Page.setLifecycleEventsEnabled", enabled=True)
        return tab

    def wait_for(self, found: Callable[[], T | None], what: str, instead: Callable[[], object]) -> T:
        """What `found` finds, once the browser has told enough; TimeoutError says what there was instead."""
        deadline = time.monotonic() + PATIENCE_S
        while (value := found()) is None:
            try:
                self._next_message(deadline)
            except TimeoutError as error:
                raise TimeoutError(f"no {what}; there was {instead()}") from error
        return value
