"""From engine records to the standard library's logging."""

from smartproxy.logs.bridge import LogBridge
from smartproxy.logs.formatters import JsonFormatter, TextFormatter

__all__ = ["JsonFormatter", "LogBridge", "TextFormatter"]
