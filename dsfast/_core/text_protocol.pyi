"""The protocol of the ws-text endpoint (spec/protocol-text-v3.md)."""

from typing import Any

from dsfast._core.connection import Protocol

class TextProtocol(Protocol):
    """The v3 text protocol: parts divided by 0x1F, messages ended by 0x1E.

    ``owner`` is an endpoint that logs what cannot be sent (``log_unsendable(text)``).
    """

    owner: Any

    def __init__(self, number: int) -> None: ...

def to_json(typed: bytes) -> bytes | None: ...
def to_typed(json_text: bytes) -> bytes: ...
