"""Tells a monitoring plugin about every message (plugins.md B.8)."""

from typing import Any

from dsfast._core.plugin_registry import PluginHub
from dsfast._core.router import Handler
from dsfast.handlers.observer import Observer

class ObservedHub(PluginHub):
    """A hub that tells an observer about what it sends."""

    def tell(self, observer: Observer) -> None: ...

class ObservedHandler(Handler):
    """A handler whose messages an observer is told about; it has the attributes of ``inner``."""

    inner: Handler
    def __init__(self, inner: Handler, observer: Observer) -> None: ...
    def __getattr__(self, name: str) -> Any: ...
