"""Server-sent events: a record or an event as a stream by HTTP (docs/http.md)."""

from dsfast._core.connection import Protocol
from dsfast._core.records import RecordCore

class SseProtocol(Protocol):
    """Only sends. ``Connection.extra`` is the version that the client knows (-1: no record), or None.

    ``records`` is where records are found; None while that feature is off.
    """

    records: RecordCore | None
    def __init__(self, number: int) -> None: ...
