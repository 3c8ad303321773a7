"""Pages of challenges: one frame, in which nothing is loaded from elsewhere and no other script runs."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from urllib.parse import quote

from jinja2 import DictLoader, Environment, StrictUndefined

from smartproxy.core.security.challenge.provider import ChallengePage

_VISIBLE_IN_A_TARGET = "!\"$%&'()*+,-./:;<=>?@[]^_`{|}~"
"""What request targets may have beside letters and digits, or have from browsers all the same."""


def page_part(name: str) -> str:
    """The text of a file of this package, with line ends as a browser counts them for a hash."""
    return (resources.files("smartproxy.challenges") / "page_parts" / name).read_text("utf-8")


_TEMPLATES = ("frame.html.j2", "wait.html.j2", "proof_of_work.html.j2")

_ENVIRONMENT = Environment(
    loader=DictLoader({name: page_part(name) for name in _TEMPLATES}),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)

_STYLE = page_part("style.css")


def _source_of(inline: str) -> str:
    """An inline block as a source expression (Content Security Policy Level 3 §2.3.1)."""
    digest = hashlib.sha256(inline.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def same_site_url(path_and_query: str) -> str:
    """A path and query as a URL reference that stays on the site, whatever it looks like."""
    if not path_and_query.startswith("/"):
        return "/"
    # Browsers drop tabs and line ends in URLs, and take `\` for `/`.
    url = quote(path_and_query, safe=_VISIBLE_IN_A_TARGET, errors="replace")
    # `//host` would name another host; the dot segment is dropped, and both slashes stay (RFC 3986 §5.2.4).
    return f"/.{url}" if url.startswith("//") else url


class PageFrame:
    """One kind of page: its template and scripts, and the response fields that hold it to them."""

    __slots__ = ("_fields", "_script", "_template")

    def __init__(self, template: str, *scripts: str, script_asks_site: bool = False) -> None:
        self._template = _ENVIRONMENT.get_template(template)
        self._script = script = "".join(map(page_part, scripts))
        connections = "connect-src 'self'; " if script_asks_site else ""
        self._fields = {
            "Content-Security-Policy": (
                f"default-src 'none'; script-src {_source_of(script)}; style-src {_source_of(_STYLE)}; "
                f"{connections}form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            ),
            # Without any referrer the answer's Origin would be "null".
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }

    def fill(self, **values: object) -> ChallengePage:
        """The page with these values, each of them escaped."""
        html = self._template.render(style=_STYLE, script=self._script, **values)
        # Only text that a peer or a configuration has broken has a lone surrogate.
        return ChallengePage(body=html.encode("utf-8", "replace"), headers=dict(self._fields))
