"""MQTT 3.1.1 (spec/protocol-mqtt.md)."""

from collections.abc import Awaitable, Callable

from dsfast._core.connection import Connection, Protocol
from dsfast._core.events import EmitWatch
from dsfast._core.router import Router
from dsfast._core.topic_filters import FilterTree

class Limits:
    """What one endpoint allows its clients; bytes and ms."""

    def __init__(
        self,
        *,
        max_packet: int,
        max_topic: int,
        max_filters: int,
        max_inflight: int,
        max_queued: int,
        max_queued_bytes: int,
        max_sessions: int,
        session_expiry: int,
        idle_timeout: int,
        send_record: bool,
    ) -> None: ...

class Client:
    """What the protocol keeps for one connection, its ``extra``."""

    connection: Connection
    client_id: str
    clean: bool
    patience: int
    unavailable: bool

class MqttBroker(EmitWatch):
    """Sessions, wildcards and answers, shared by the MQTT endpoints of a server."""

    sessions: dict[tuple[str, str], object]
    tree: FilterTree
    refused: int
    dropped: int
    stopping: bool
    def __init__(
        self,
        router: Router,
        tcp: MqttProtocol,
        web: MqttStreamProtocol,
        decide: Callable[[Connection, str], bool | Awaitable[bool]] | None,
    ) -> None: ...
    def start(self, c: Connection) -> None: ...
    def stats(self) -> dict[str, int]: ...

class MqttProtocol(Protocol):
    """MQTT on a TCP connection."""

    broker: MqttBroker | None
    def __init__(self, number: int) -> None: ...

class MqttStreamProtocol(MqttProtocol):
    """MQTT in the binary messages of a websocket, whose bounds mean nothing."""
