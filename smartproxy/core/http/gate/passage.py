"""What a backend gets of the fields of a request that has passed its gate."""

from __future__ import annotations

from smartproxy.core.downstream.client import ClientFacts
from smartproxy.core.http.field_names import ONE_SPELLING
from smartproxy.core.http.messages import Fields, RequestHead
from smartproxy.core.security.challenge.cookies import without_cookies
from smartproxy.core.security.verdict import Passed


def fields_for_backend(client: ClientFacts, head: RequestHead, passed: Passed) -> Fields:
    """The request's fields as the gate wants them: the same list, where nothing changes.

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
    if passed.added_fields:
        fields = fields + passed.added_fields
    client.last_gated_fields, client.last_passed, client.last_gated_result = head.fields, passed, fields
    return fields
