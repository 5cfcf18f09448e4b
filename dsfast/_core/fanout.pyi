"""Subscriptions, broadcasts and outboxes (DESIGN.md section 3)."""

import asyncio
from typing import Any, Protocol

from dsfast._core.protocol import Message

class Codec:
    """How the messages of one protocol look on the wire; ``number`` is 1 to 31."""

    number: int
    def __init__(self, number: int) -> None: ...

class Peer:
    """The sending half of a connection."""

class Hub:
    """Everything that is sent in one turn of the event loop, by all connections of a server.

    ``buffer_timeout`` in seconds (0: one turn), the other limits in bytes; ``conflate`` chooses the policy
    for slow readers of records.
    """

    loop: asyncio.AbstractEventLoop
    buffer_timeout: float
    max_buffer_bytes: int
    max_outgoing_bytes: int
    conflate: bool
    messages_in: int
    deliveries: int
    broadcasts: int
    bytes_out: int
    writes: int
    slow_closed: int
    conflations: int
    dropped: int
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        buffer_timeout: float = 0,
        max_buffer_bytes: int = 100_000,
        max_outgoing_bytes: int = 8388608,
        conflate: bool = False,
    ) -> None: ...
    @property
    def is_polyglot(self) -> bool: ...
    def add_codec(self, codec: Codec) -> None: ...
    def flush_now(self) -> None: ...
    def histogram(self, name: str) -> tuple[list[int], int]: ...
    def message_counts(self) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]: ...
    def stats(self) -> dict[str, int]: ...

class SubscriptionListener(Protocol):
    def on_first_subscription(self, name: str) -> object: ...
    def on_last_unsubscription(self, name: str) -> object: ...

class Registry:
    """name → subscribers of one topic on this node (spec/events-rpc-presence-listen.md section 1)."""

    hub: Hub
    topic: int
    subscriptions: int
    def __init__(self, hub: Hub, topic: int, conflatable: bool = False) -> None: ...
    @property
    def subjects(self) -> int: ...
    def names(self) -> list[str]: ...
    def has(self, name: str) -> bool: ...
    def count(self, name: str) -> int: ...
    def subscribers(self, name: str) -> list[Any]: ...
    def is_subscribed(self, name: str, peer: Peer) -> bool: ...
    def add(self, name: str, peer: Peer) -> bool: ...
    def remove(self, name: str, peer: Peer) -> bool: ...
    def remove_all(self, name: str) -> None: ...
    def broadcast(self, name: str, message: Message, sender: Any = None) -> None: ...
    def set_provided(self, name: str, provided: bool) -> None: ...
    def set_listener(self, listener: SubscriptionListener | None) -> None: ...
