"""Challenge providers that raise, hang or return nonsense: nobody is let through because of them."""

from __future__ import annotations

from math import inf, nan
from types import MappingProxyType
from typing import Any

import pytest
from challenges_by_hand import Desk, refused, shown

from smartproxy.core.failure import FailureCode, FailureSource
from smartproxy.core.ops import CancelOperation, Returned
from smartproxy.core.records import Level, Record
from smartproxy.core.security.challenge.provider import Assessment, ChallengePage, Decision, Verification
from smartproxy.core.security.verdict import Verdict


class LyingMapping(dict[str, str]):
    def items(self) -> Any:
        raise RuntimeError("no items")


NONSENSE: list[tuple[str, object]] = [
    ("on_assess", None),
    ("on_assess", True),
    ("on_assess", Decision.ALLOW),
    ("on_assess", Assessment("allow")),  # type: ignore[arg-type]
    ("on_assess", Assessment(Decision.CHALLENGE, {"x": object()})),
    ("on_assess", Assessment(Decision.CHALLENGE, {"x": nan})),
    ("on_assess", Assessment(Decision.CHALLENGE, {"x": "\ud800"})),
    ("on_assess", Assessment(Decision.CHALLENGE, {"x": "y" * 1024})),
    ("on_assess", Assessment(Decision.CHALLENGE, ["x"])),  # type: ignore[arg-type]
    ("on_assess", Assessment(Decision.ALLOW, reason=7)),  # type: ignore[arg-type]
    ("on_render", None),
    ("on_render", "<p>Wait."),
    ("on_render", ChallengePage(7)),  # type: ignore[arg-type]
    ("on_render", ChallengePage("\ud800")),
    ("on_render", ChallengePage("x" * (256 * 1024 + 1))),
    ("on_render", ChallengePage("é" * (128 * 1024 + 1))),
    ("on_render", ChallengePage("", status=True)),
    ("on_render", ChallengePage("", status=101)),
    ("on_render", ChallengePage("", status=204)),
    ("on_render", ChallengePage("", status=304)),
    ("on_render", ChallengePage("", status=600)),
    ("on_render", ChallengePage("", status="403")),  # type: ignore[arg-type]
    ("on_render", ChallengePage("", content_type="text/html\r\nx: y")),
    ("on_render", ChallengePage("", content_type=None)),  # type: ignore[arg-type]
    ("on_render", ChallengePage("", headers={"a b": "x"})),
    ("on_render", ChallengePage("", headers={"": "x"})),
    ("on_render", ChallengePage("", headers={"a": "x\ny"})),
    ("on_render", ChallengePage("", headers={"a": "x\0y"})),
    ("on_render", ChallengePage("", headers={"a": "\u20ac"})),
    ("on_render", ChallengePage("", headers={"a": "x" * 9000})),
    ("on_render", ChallengePage("", headers={f"a{n}": "x" for n in range(65)})),
    ("on_render", ChallengePage("", headers={"Set-Cookie": "x=y"})),
    ("on_render", ChallengePage("", headers={"Cache-Control": "public"})),
    ("on_render", ChallengePage("", headers={"Content-Length": "1"})),
    ("on_render", ChallengePage("", headers={"Transfer-Encoding": "chunked"})),
    ("on_render", ChallengePage("", headers={"Connection": "close"})),
    ("on_render", ChallengePage("", headers=[("a", "b")])),  # type: ignore[arg-type]
    ("on_render", ChallengePage("", headers=LyingMapping(a="b"))),
    ("on_verify", None),
    ("on_verify", True),
    ("on_verify", Verification("yes")),  # type: ignore[arg-type]
    ("on_verify", Verification(True, reason=None)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("hook", "value"), NONSENSE)
def test_nonsense_lets_nobody_through(hook: str, value: object) -> None:
    desk = Desk()
    if hook == "on_verify":
        desk.visit()
    setattr(desk.provider, hook, lambda: value)
    verdict = refused(desk.visit(), 503)
    assert verdict.failure.source is FailureSource.PROXY
    assert verdict.failure.code is FailureCode.PROXY_INTERNAL_ERROR
    (failed,) = desk.records("challenge_provider_failed")
    assert failed["provider"] == "fake"
    assert failed["detail"]
    assert (
        next(r for r in desk.context.records if isinstance(r, Record) and r.fields is failed).level
        is Level.ERROR
    )


@pytest.mark.parametrize("hook", ["on_assess", "on_render", "on_verify"])
def test_provider_that_raises_lets_nobody_through(hook: str) -> None:
    desk = Desk()
    if hook == "on_verify":
        desk.visit()

    def fail() -> object:
        raise ValueError("x" * 1000)

    setattr(desk.provider, hook, fail)
    refused(desk.visit(), 503)
    assert "ValueError" in str(desk.records("challenge_provider_failed")[0]["detail"])
    assert len(str(desk.records("challenge_provider_failed")[0]["detail"])) <= 200


@pytest.mark.parametrize("hook", ["on_assess", "on_render", "on_verify"])
def test_provider_that_hangs_lets_nobody_through(hook: str) -> None:
    desk = Desk(relay_timeout_s=5.0)
    if hook == "on_verify":
        desk.visit()
    verdicts: list[Verdict] = []
    desk.challenges.challenge(desk.request(), verdicts.append)
    context = desk.context
    if hook == "on_render":
        (operation,) = context.operations
        context.operations.clear()
        context.now = 4.0
        context.pending_operations.pop(operation.id)(Returned(desk.provider.on_assess()))
    assert context.timers.next_deadline() == 5.0, "one deadline for all of a request's calls"
    context.now = 5.0
    context.timers.fire(5.0)
    refused(verdicts[0], 503)
    assert not context.pending_operations
    assert isinstance(context.operations[-1], CancelOperation)
    assert "5 s" in str(desk.records("challenge_provider_failed")[0]["detail"])


def test_provider_that_nobody_has_registered() -> None:
    desk = Desk()
    desk.challenges.unregister("fake")
    desk.challenges.unregister("fake")
    assert not desk.challenges.has_provider("fake")
    verdict = refused(desk.visit(), 503)
    assert verdict.failure.code is FailureCode.PROXY_CONFIGURATION_ERROR
    assert "'fake'" in str(desk.records("challenge_provider_failed")[0]["detail"])
    desk.challenges.register("fake", desk.provider)
    assert desk.challenges.has_provider("fake")
    shown(desk.visit())


def test_provider_without_the_methods_of_one() -> None:
    desk = Desk()
    desk.challenges.register("fake", object())  # type: ignore[arg-type]
    refused(desk.visit(), 503)


def test_mapping_of_any_kind_is_a_state_and_comes_back_as_json_has_it() -> None:
    desk = Desk()
    desk.provider.on_assess = lambda: Assessment(Decision.CHALLENGE, MappingProxyType({"t": (1, "é")}))
    desk.visit()
    assert desk.pending.state == {"t": [1, "é"]}
    desk.visit()
    assert desk.pending.state == {"t": [1, "é"]}


def test_request_that_is_gone_leaves_nothing_behind() -> None:
    desk = Desk()
    verdicts: list[Verdict] = []
    waiting = desk.challenges.challenge(desk.request(), verdicts.append)
    waiting.cancel()
    waiting.cancel()
    assert isinstance(desk.context.operations[-1], CancelOperation)
    assert not desk.context.pending_operations
    assert desk.context.timers.next_deadline() == inf
    assert verdicts == []
