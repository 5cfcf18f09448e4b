"""Telemetry (plugins.md B.15)."""

from dsfast.plugin.base import Plugin

__all__ = ["Telemetry"]


class Telemetry(Plugin):
    """Reports how the server is used. The built-in one reports nothing to anybody."""
