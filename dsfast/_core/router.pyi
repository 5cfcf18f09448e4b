"""From a message to its handler."""

from collections.abc import Mapping
from typing import Any

from dsfast._core.connection import Connection, Dispatcher
from dsfast._core.protocol import Message

VERDICT_DENIED: int
VERDICT_ALLOWED: int
VERDICT_FAILED: int
VERDICT_WAITS: int

class Gate:
    """Decides in the core about what needs no waiting."""

class Handler:
    """Base of the handlers."""

    def on_message(self, connection: Connection, message: Message) -> None: ...
    def unknown_action(self, connection: Connection, message: Message) -> None: ...

class Router(Dispatcher):
    """Topic → handler, through the permission gate if there is one."""

    handlers: tuple[Any, ...]
    gate: Any
    core_gate: Gate | None
    def __init__(
        self, handlers: Mapping[int, Handler], gate: Any = None, core_gate: Gate | None = None
    ) -> None: ...
    def forward(self, connection: Connection, message: Message) -> None: ...
