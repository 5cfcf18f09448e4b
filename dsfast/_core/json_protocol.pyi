"""The protocol of the ws-json endpoint (spec/protocol-json.md)."""

from dsfast._core.connection import Protocol

class JsonProtocol(Protocol):
    """One JSON object per text frame; fields and numbers are those of the binary protocol."""

    def __init__(self, number: int) -> None: ...
