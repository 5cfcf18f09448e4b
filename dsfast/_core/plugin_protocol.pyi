"""A protocol whose messages are read and written by a plugin (plugins.md B.7)."""

from collections.abc import Iterable
from typing import Protocol as Interface

from dsfast._core.connection import Protocol
from dsfast._core.protocol import Message

class Owner(Interface):
    def parse(self, frame: str | bytes) -> Iterable[Message]: ...
    def encode(self, message: Message) -> str | bytes | Iterable[str | bytes] | None: ...
    def log_exception(self, text: str, error: Exception) -> None: ...

class PluginProtocol(Protocol):
    """A plugin's ``parse(frame)`` gives messages, its ``encode(message)`` gives frames."""

    def __init__(self, number: int, owner: Owner, socket_type: str, binary: bool) -> None: ...
