"""One client connection of the ws-binary endpoint, and what all connections of an endpoint share."""

import asyncio
from collections.abc import Callable
from typing import Any

from dsfast._core.deflate import Deflate
from dsfast._core.fanout import Codec, Hub, Peer
from dsfast._core.protocol import Message
from dsfast._core.timers import TimingWheel

class Dispatcher: ...

class Protocol(Codec):
    """What distinguishes another protocol from the binary one."""

    socket_type: str
    opcode: int
    subprotocol: str | None
    beats: bool
    def __init__(
        self,
        number: int,
        socket_type: str,
        opcode: int = 1,
        subprotocol: str | None = None,
        beats: bool = False,
    ) -> None: ...

class Endpoint:
    """Options (bytes, ms), counters and services shared by the connections of one endpoint."""

    hub: Hub
    wheel: TimingWheel
    connections: set[Connection]
    url_path: bytes
    protocol: Protocol | None
    framed: bool
    paths: dict[bytes, Endpoint] | None
    head_timeout: int
    body_timeout: int
    admission: Any
    deflate: Deflate | None
    max_message_size: int
    max_body_size: int
    heartbeat_interval: int
    unauthenticated_timeout: int
    max_auth_attempts: int
    max_bad_messages: int
    accepted: int
    logins: int
    bad_messages: int
    def __init__(
        self,
        hub: Hub,
        wheel: TimingWheel,
        router: Dispatcher,
        owner: Any,
        *,
        open_user_id: Callable[[Any], str] | None = None,
    ) -> None: ...
    def make(self) -> Connection: ...
    def join(self, port: Endpoint) -> None: ...
    def share(self, port: Endpoint) -> None: ...
    def close_connections(self, code: int, limit: int) -> int: ...
    def open_connections(self) -> list[Connection]: ...
    def abort_connections(self) -> None: ...
    def stats(self) -> dict[str, int]: ...

class Connection(Peer, asyncio.BufferedProtocol):
    """A client connection; the "socket" of spec/plugins.md A.3."""

    user_id: str
    server_data: Any
    client_data: Any
    sdk_type: str | None
    sdk_version: str | None
    lane: Any
    extra: Any
    def __init__(self, endpoint: Endpoint) -> None: ...
    def finish_login(
        self,
        accepted: bool,
        user_id: str | None,
        server_data: Any,
        client_data: Any,
        ends_in: int | None = None,
    ) -> None: ...
    @property
    def held(self) -> int: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...
    def abort(self) -> None: ...
    def respond(self, status: int, headers: dict[str, str], body: bytes) -> None: ...
    def become(
        self,
        endpoint: Endpoint,
        head: bytes,
        *,
        user_id: str | None,
        server_data: Any = None,
        client_data: Any = ...,
        ends_in: int | None = None,
    ) -> bool: ...
    def handle(self, message: Message) -> None: ...
    def send(self, message: Message, buffered: bool = True) -> None: ...
    def send_ack(self, message: Message, buffered: bool = True) -> None: ...
    def on_close(self, callback: Callable[[Any], object]) -> None: ...
    def remove_on_close(self, callback: Callable[[Any], object]) -> None: ...
    def destroy(self) -> None: ...
    @property
    def handshake_data(self) -> dict[str, Any]: ...
    @property
    def peer_address(self) -> str | None: ...
    def set_peer_name(self, name: str) -> None: ...
    @property
    def max_names(self) -> int: ...
    @property
    def uuid(self) -> str: ...
    @property
    def socket_type(self) -> str: ...
    @property
    def is_remote(self) -> bool: ...
    @property
    def is_closed(self) -> bool: ...

class VirtualConnection(Connection):
    """A client that has no connection of its own, such as one HTTP request; logged in from the start."""

    def __init__(
        self,
        endpoint: Endpoint,
        sink: Callable[[Message], object],
        *,
        user_id: str | None,
        server_data: Any = None,
        client_data: Any = ...,
        handshake: dict[str, Any] | None = None,
    ) -> None: ...
    def end(self) -> None: ...
