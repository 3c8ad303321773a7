"""Which certificates the routes show, compiled for the core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from smartproxy.config.certificates import (
    CertificateReader,
    Place,
    Rejected,
    ServerCertificate,
    self_signed_certificate,
)
from smartproxy.config.models import ProxyConfig, RouteConfig, RouteTlsConfig
from smartproxy.config.models.scalars import as_list
from smartproxy.config.problems import Problem, Severity, place_text
from smartproxy.config.route_checks import error, raw_handler, serves_http3, terminates_tls
from smartproxy.config.tls_contexts import ServerContexts, ServerSettings
from smartproxy.core.certificates import CertificateIndex, NameIndex, ServedTls
from smartproxy.core.routing.domains import normalise_domain


def index_certificates(
    model: ProxyConfig, reader: CertificateReader, problems: list[Problem]
) -> CertificateIndex:
    """The certificate index of the enabled routes of `model`; what is wrong is added to `problems`."""
    return _Indexer(model, reader, problems).index()


class _Indexer:
    def __init__(self, model: ProxyConfig, reader: CertificateReader, problems: list[Problem]) -> None:
        self._model = model
        self._reader = reader
        self._problems = problems
        serves_quic = any(route.enabled and serves_http3(route) for route in model.routes)
        self._contexts = ServerContexts(reader, serves_quic=serves_quic)
        self._by_name: dict[str, tuple[ServerCertificate, Place]] = {}
        self._own_indexes: dict[ServedTls, NameIndex] = {}
        self._shared_indexes: dict[ServerSettings, NameIndex] = {}
        self._default: tuple[ServerCertificate, Place] | None = None

    def index(self) -> CertificateIndex:
        terminating = dict(self._terminating())
        settings = self._settings(terminating)
        own = self._read_own(terminating)
        self._read_default()
        for certificate, place in [*own.values(), *([self._default] if self._default else [])]:
            for name in certificate.names:
                self._by_name.setdefault(name, (certificate, place))
        indexes: dict[int, NameIndex] = {}
        for position, (route, tls) in terminating.items():
            if position not in settings:
                continue
            if tls.certificate is None:
                indexes[position] = self._shared_index(settings[position])
                self._problems += self._check_shared(position, route, has_others=bool(own))
            elif position in own:
                certificate, place = own[position]
                self._problems += _check_coverage(position, route, certificate)
                served = self._serve(certificate, settings[position], place)
                if served is not None:
                    indexes[position] = self._own_indexes.setdefault(served, NameIndex({}, served))
        return CertificateIndex(indexes)

    def _terminating(self) -> Iterator[tuple[int, tuple[RouteConfig, RouteTlsConfig]]]:
        for position, route in enumerate(self._model.routes):
            if route.enabled and route.action.tls is not None and terminates_tls(route):
                yield position, (route, route.action.tls)

    def _settings(
        self, terminating: Mapping[int, tuple[RouteConfig, RouteTlsConfig]]
    ) -> dict[int, ServerSettings]:
        settings: dict[int, ServerSettings] = {}
        for position, (route, tls) in terminating.items():
            serves_http = route.match.protocol != "tcp" and not raw_handler(route)
            place = ("routes", position, "action", "tls")
            try:
                settings[position] = self._contexts.settings(tls, place, serves_http=serves_http)
            except Rejected as rejected:
                self._problems.append(rejected.problem)
        return settings

    def _read_own(
        self, terminating: Mapping[int, tuple[RouteConfig, RouteTlsConfig]]
    ) -> dict[int, tuple[ServerCertificate, Place]]:
        own: dict[int, tuple[ServerCertificate, Place]] = {}
        for position, (_, tls) in terminating.items():
            if tls.certificate is None:
                continue
            place = ("routes", position, "action", "tls", "certificate")
            try:
                own[position] = (self._reader.read(tls.certificate, place), place)
            except Rejected as rejected:
                self._problems.append(rejected.problem)
        return own

    def _read_default(self) -> None:
        place = ("default_certificate",)
        if self._model.default_certificate is not None:
            try:
                self._default = (self._reader.read(self._model.default_certificate, place), place)
            except Rejected as rejected:
                self._problems.append(rejected.problem)

    def _serve(
        self, certificate: ServerCertificate, settings: ServerSettings, place: Place
    ) -> ServedTls | None:
        try:
            return self._contexts.served(certificate, settings, place)
        except Rejected as rejected:
            if rejected.problem not in self._problems:
                self._problems.append(rejected.problem)
            return None

    def _shared_index(self, settings: ServerSettings) -> NameIndex:
        """All certificates, by name, under one kind of settings."""
        index = self._shared_indexes.get(settings)
        if index is None:
            by_name: dict[str, ServedTls] = {}
            for name, (certificate, place) in self._by_name.items():
                served = self._serve(certificate, settings, place)
                if served is not None:
                    by_name[name] = served
            default = None
            if self._default is not None:
                default = self._serve(self._default[0], settings, self._default[1])
            elif not self._model.disable_default_cert:
                default = self._serve(self_signed_certificate(), settings, ("default_certificate",))
            index = self._shared_indexes[settings] = NameIndex(by_name, default)
        return index

    def _check_shared(self, position: int, route: RouteConfig, *, has_others: bool) -> Iterator[Problem]:
        """A route that leaves its certificate to others: whether there is one for each of its names."""
        # Where there are no others at all the validator has said so.
        if self._model.default_certificate is not None or not has_others:
            return
        names = self._by_name.keys()
        place = ("routes", position, "action", "tls", "certificate")
        for domain in map(normalise_domain, as_list(route.match.domains)):
            if domain in names or "*." + domain.partition(".")[2] in names:
                continue
            given = "" if route.match.hides("domains") else f'"{domain}"'
            message = "is left out, and no other certificate is good for a name of `match.domains`"
            if self._model.disable_default_cert:
                yield error(place, message, given=given)
            else:
                message += "; its clients get a self-signed one"
                yield Problem(place_text(place), message, given, severity=Severity.WARNING)
            return


def _check_coverage(position: int, route: RouteConfig, certificate: ServerCertificate) -> Iterator[Problem]:
    for domain in map(normalise_domain, as_list(route.match.domains)):
        # `example.*` and `*` are more than any certificate is good for.
        if not domain.endswith("*") and not certificate.covers(domain):
            given = "" if route.match.hides("domains") else f'"{domain}"'
            yield Problem(
                place_text(("routes", position, "action", "tls", "certificate")),
                "is not good for a name of `match.domains`",
                given,
                severity=Severity.WARNING,
            )
