"""The challenges that come with the proxy, `wait` and `proof-of-work`, as a challenge provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.challenges.settings import BUILT_IN_PROVIDER_ID, check_settings

if TYPE_CHECKING:
    from smartproxy.challenges.built_in import BuiltInChallenges
    from smartproxy.core.engine import Engine

__all__ = ["BUILT_IN_PROVIDER_ID", "BuiltInChallenges", "check_settings", "register_built_in"]


def register_built_in(engine: Engine) -> None:
    """Register the built-in provider with `engine`, if a route of its configuration asks for it."""
    for route in engine.configuration.table.routes:
        policy = route.request_policy
        if policy is not None and BUILT_IN_PROVIDER_ID in policy.challenge_providers:
            from smartproxy.challenges.built_in import BuiltInChallenges

            engine.register_challenge_provider(BUILT_IN_PROVIDER_ID, BuiltInChallenges())
            return


def __getattr__(name: str) -> object:
    # Imported when first asked for: who only checks a configuration does not load the template engine.
    if name == "BuiltInChallenges":
        from smartproxy.challenges.built_in import BuiltInChallenges

        return BuiltInChallenges
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
