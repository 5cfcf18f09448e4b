"""Batches of the HTTP API (spec/http.md sections 4 and 5)."""

from collections.abc import Callable
from typing import Any

from dsfast._core.connection import Endpoint
from dsfast._core.protocol import Message

class Scanned:
    """The elements of a request, if all are right and usual; ``auth_data`` and ``token`` are JSON texts."""

    auth_data: bytes | None
    token: bytes | None
    def __len__(self) -> int: ...
    def messages(self) -> list[Message]: ...

def scan(body: bytes) -> Scanned | None:
    """Read a request without making Python objects of it; None if that is not enough."""

class Batch:
    """Runs elements as one user and collects the answers.

    Each element has a connection of its own while it is worked on, so that a slow one keeps nobody waiting
    and every answer is that of its element. ``answers`` and ``login`` are those of dsfast.endpoints.http.
    """

    def __init__(
        self, core: Endpoint, answers: Any, login: Any, elements: Scanned | list[Message]
    ) -> None: ...
    def start(self) -> bytes | None:
        """Begin. Returns the answer, or None: then ``wait`` has to be called."""
    def wait(
        self, timeout: float, on_timeout: Callable[[], object], on_done: Callable[[bytes], object]
    ) -> None:
        """Call ``on_done(answer)`` when all have answered, or ``timeout`` seconds have passed."""
    def abandon(self, connection: Any) -> None:
        """Nobody waits for the answer any more. What was begun takes effect."""
