"""The models of what users write, by subject."""

from __future__ import annotations

from smartproxy.config.models.action import (
    Action,
    BlockConfig,
    ForwardActionConfig,
    ForwardOptionsConfig,
    HandlerActionConfig,
    HandlerConfig,
    HttpBlockConfig,
    HttpRedirectConfig,
    HttpResponseConfig,
)
from smartproxy.config.models.authentication import BasicAuthConfig, BasicUserConfig, JwtAuthConfig
from smartproxy.config.models.base import ConfigModel
from smartproxy.config.models.challenge import (
    ApplyToConfig,
    ChallengeConfig,
    ChallengeSettingsConfig,
    ClearanceConfig,
)
from smartproxy.config.models.match import (
    InboundProxyProtocolConfig,
    MatchConfig,
    PortRangeConfig,
    TargetMatchConfig,
)
from smartproxy.config.models.proxy import DefaultsConfig, LimitsConfig, LoggingConfig, ProxyConfig
from smartproxy.config.models.rate_limit import OnExceededConfig, RateLimitConfig
from smartproxy.config.models.route import RouteConfig
from smartproxy.config.models.security import SecurityConfig, SecurityPolicyConfig
from smartproxy.config.models.target import (
    HeadersConfig,
    HealthCheckConfig,
    LoadBalancingConfig,
    TargetConfig,
    WeightedHostConfig,
)
from smartproxy.config.models.tls import (
    CertificateConfig,
    ClientAuthConfig,
    OriginTlsConfig,
    RouteTlsConfig,
    TargetTlsConfig,
)
from smartproxy.config.models.udp import QuicConfig, UdpConfig
from smartproxy.config.models.websocket import WebSocketConfig

__all__ = [
    "Action",
    "ApplyToConfig",
    "BasicAuthConfig",
    "BasicUserConfig",
    "BlockConfig",
    "CertificateConfig",
    "ChallengeConfig",
    "ChallengeSettingsConfig",
    "ClearanceConfig",
    "ClientAuthConfig",
    "ConfigModel",
    "DefaultsConfig",
    "ForwardActionConfig",
    "ForwardOptionsConfig",
    "HandlerActionConfig",
    "HandlerConfig",
    "HeadersConfig",
    "HealthCheckConfig",
    "HttpBlockConfig",
    "HttpRedirectConfig",
    "HttpResponseConfig",
    "InboundProxyProtocolConfig",
    "JwtAuthConfig",
    "LimitsConfig",
    "LoadBalancingConfig",
    "LoggingConfig",
    "MatchConfig",
    "OnExceededConfig",
    "OriginTlsConfig",
    "PortRangeConfig",
    "ProxyConfig",
    "QuicConfig",
    "RateLimitConfig",
    "RouteConfig",
    "RouteTlsConfig",
    "SecurityConfig",
    "SecurityPolicyConfig",
    "TargetConfig",
    "TargetMatchConfig",
    "TargetTlsConfig",
    "UdpConfig",
    "WebSocketConfig",
    "WeightedHostConfig",
]
