"""What a backend gets of the fields of a request that has passed its gate."""

from __future__ import annotations

from smartproxy.core.downstream.client import ClientFacts
from smartproxy.core.http.field_names import ONE_SPELLING
from smartproxy.core.http.messages import Fields, RequestHead
from smartproxy.core.security.challenge.cookies import without_cookies
from smartproxy.core.security.verdict import Passed


def trailers_for_backend(trailers: Fields, passed: Passed) -> Fields:
    """A request's trailers: what may not be in its head must not come behind it either."""
    removed = passed.removed_fields
    if not removed or not trailers:
        return trailers
    return [line for line in trailers if line[0].translate(ONE_SPELLING) not in removed]


def fields_for_backend(client: ClientFacts, head: RequestHead, passed: Passed) -> Fields:
    """What the gate leaves of the request's fields: the same list, where that is all of them.

    Cookies that challenges have set are nobody's business but ours. The next request of a
    connection often shares its list of fields, and then the result too.
    """
    if head.fields is client.last_gated_fields and passed is client.last_passed:
        return client.last_gated_result
    removed = passed.removed_fields
    fields = head.fields
    if removed:
        # Many servers hand `a_b` and `a-b` to programs as one name, so that one could stand in for the other.
        fields = [line for line in fields if line[0].translate(ONE_SPELLING) not in removed]
    own_cookies: tuple[bytes, ...] = ()
    if client.generation.has_challenges:
        own_cookies = client.generation.gatekeeper.challenges.own_cookie_names(head.fields)
    if own_cookies or passed.removed_cookies:
        fields = without_cookies(fields, passed.removed_cookies + own_cookies)
    client.last_gated_fields, client.last_passed, client.last_gated_result = head.fields, passed, fields
    return fields
