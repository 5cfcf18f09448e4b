"""The protocol of the ws-text endpoint (spec/protocol-text-v3.md)."""

from dsfast._core.connection import Protocol

class TextProtocol(Protocol):
    """The v3 text protocol: parts divided by 0x1F, messages ended by 0x1E."""

    def __init__(self, number: int) -> None: ...

def to_json(typed: bytes) -> bytes | None: ...
def to_typed(json_text: bytes) -> bytes: ...
