"""Record writes and the fast path of the record handler (spec/records.md)."""

from collections.abc import Callable
from typing import Any

from dsfast._core.connection import Connection
from dsfast._core.fanout import Hub, Registry
from dsfast._core.protocol import Message
from dsfast._core.record_cache import Record, RecordCache
from dsfast._core.router import Gate, Handler

STEP_WRITE: int
STEP_HOT_WRITE: int
STEP_READ: int
STEP_HEAD: int
STEP_SUBSCRIBE_READ: int
STEP_SUBSCRIBE_CREATE_READ: int
STEP_SUBSCRIBE: int
STEP_UNSUBSCRIBE: int
STEP_DELETE: int
STEP_RELOAD: int
STEP_GET: int

class Step:
    """One operation on one record, waiting for its turn or being performed."""

    kind: int
    connection: Connection
    action: int
    normal: int
    key: bytes
    version: int
    has_version: bool
    data: bytes | None
    path: str | None
    correlation_id: bytes | None
    write_ack: bool
    upsert: bool
    may_read: bool
    holding: bool
    durable: bool
    collector: Callable[..., object] | None
    @property
    def name(self) -> str: ...
    @property
    def is_write(self) -> bool: ...
    def message(self, action: int) -> Message: ...
    def shows_record(self, version: int) -> bool: ...

class RecordCore(Handler):
    """Topic RECORD, as far as nothing has to be waited for."""

    registry: Registry
    hub: Hub
    cache: RecordCache | None
    writer: Any
    gate: Any
    core_gate: Gate | None
    queues: dict[bytes, Any]
    strict: bool
    def __init__(
        self, registry: Registry, cache: RecordCache | None, listen: Any, log: Any, options: Any
    ) -> None: ...
    def stored(self, key: bytes) -> bool: ...
    def enqueue(self, step: Step) -> None: ...
    def turn_now(self, step: Step, record: Record | None) -> int: ...
    def perform_now(self, step: Step, record: Record | None) -> None: ...
    def prepare(self, step: Step, record: Record | None) -> Record | None: ...
    def commit_now(self, step: Step, record: Record) -> None: ...
    def new_record(self, step: Step) -> Record: ...
    def find_cached(self, key: bytes) -> Record | None: ...
    def admit(self, key: bytes, version: int, text: bytes, stored: bool) -> Record: ...
    def forget_cached(self, key: bytes) -> None: ...
    def store_again(self, record: Record) -> None: ...
    def refuses(self, connection: Connection, message: Message) -> bool: ...
    def refuse(self, step: Step, action: int) -> None: ...
    def head_bulk(self, connection: Connection, names: list[str], correlation_id: bytes | None) -> None: ...
    def notify(self, connection: Connection, names: list[str], message: Message) -> None: ...
    def plugin_subscribe_and_head(
        self, connection: Connection, names: list[str], message: Message
    ) -> None: ...
    def subscribe_name(self, connection: Connection, name: str, action: int) -> None: ...
    def make_step(
        self,
        kind: int,
        connection: Connection | None,
        action: int,
        key: bytes,
        collector: Callable[..., object] | None = None,
    ) -> Step: ...
    def submit_step(self, step: Step) -> None: ...
