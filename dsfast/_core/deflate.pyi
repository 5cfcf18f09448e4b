"""Compressed websocket messages: permessage-deflate (RFC 7692)."""

from collections.abc import Callable

from dsfast._core.fanout import Codec

FULL_WINDOW: int
SMALL_WINDOW: int

def negotiate(header: str) -> int | None: ...
def agreement(window_bits: int) -> bytes: ...
def inflated(data: bytes, limit: int) -> bytes | None: ...

class DeflateCodec(Codec):
    """Another protocol, whose larger frames are compressed."""

    base: Codec | None
    window_bits: int
    level: int
    threshold: int
    def __init__(
        self, number: int, base: Codec | None, window_bits: int, level: int, threshold: int
    ) -> None: ...

class Deflate:
    """How the connections of an endpoint compress."""

    def __init__(self, codec: Callable[[int], DeflateCodec]) -> None: ...
    def negotiate(self, header: str) -> tuple[DeflateCodec | None, bytes]: ...
