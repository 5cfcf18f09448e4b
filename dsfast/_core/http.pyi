"""HTTP on the port of the websocket."""

HEAD_SIZE_LIMIT: int
REASONS: dict[int, str]

class HttpRequest:
    """One request on the port; header names are lower case."""

    method: str
    target: bytes
    headers: dict[str, str]
    body: bytearray
    keep_alive: bool
    upgrade: bool

class HttpReader:
    """Collects the requests of one connection; ``limit`` bounds a body, in bytes."""

    done: list[HttpRequest]
    too_large: bool
    def __init__(self, limit: int) -> None: ...
    def feed(self, data: bytes) -> None: ...
    def close(self) -> None: ...

def accept_value(key: str) -> bytes | None: ...
