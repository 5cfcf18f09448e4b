"""Records and events as server-sent events (docs/http.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsfast._core.connection import Connection, Endpoint, VirtualConnection
from dsfast._core.protocol import EventAction, Message, RecordAction, Topic
from dsfast._core.sse_protocol import SseProtocol
from dsfast.endpoints.http.login import Login
from dsfast.handlers.permission import Decision
from dsfast.plugin import HttpError
from dsfast.services.http_service.routes import HttpResponse, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from dsfast.endpoints.http import HttpEndpoint
    from dsfast.handlers import MessageRouter
    from dsfast.services.http_service import HttpService

__all__ = ["Streams"]

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    # nginx would collect the events
    "X-Accel-Buffering": "no",
}
SUBSCRIBE = {Topic.RECORD: RecordAction.SUBSCRIBEANDREAD, Topic.EVENT: EventAction.SUBSCRIBE}


class Streams:
    """Turns requests into subscriptions that last as long as their connection."""

    def __init__(self, endpoint: HttpEndpoint, router: MessageRouter, http: HttpService) -> None:
        self._router = router
        self._http = http
        protocol = router.protocol(SseProtocol)
        assert isinstance(protocol, SseProtocol)
        protocol.records = router.record_handler
        self._asking = endpoint.core
        self._core = Endpoint(router.hub, router.wheel, router, endpoint)
        self._core.protocol = protocol
        self._core.framed = False
        self._core.heartbeat_interval = endpoint.options.stream_heartbeat_interval
        self._core.share(http.core)

    def open(
        self, connection: Connection, request: Request, topic: Topic, name: str, login: Login
    ) -> HttpResponse | Awaitable[HttpResponse | None] | None:
        """Begin to send; an answer if there is no stream. Raises HttpError."""
        if self._router.handlers[topic] is None:
            raise HttpError(404, f"{topic.name.capitalize()}s are disabled on this server.")
        if self._router.gate is None:
            return self._begin(connection, request, topic, name, login)
        return self._open_if_permitted(connection, request, topic, name, login)

    async def _open_if_permitted(
        self, connection: Connection, request: Request, topic: Topic, name: str, login: Login
    ) -> HttpResponse | None:
        # The subscription will be checked like every other; but once the stream has begun, there is no 403.
        asking = VirtualConnection(
            self._asking,
            lambda message: None,
            user_id=login.user_id,
            server_data=login.server_data,
            client_data=login.client_data,
            handshake=login.connection_data,
        )
        decision = await self._router.gate.decide(asking, Message(topic, SUBSCRIBE[topic], name=name))
        asking.end()
        if decision is not Decision.ALLOWED:
            raise HttpError(403, 'Message denied. Action "SUBSCRIBE" is not permitted.')
        return self._begin(connection, request, topic, name, login)

    def _begin(
        self, connection: Connection, request: Request, topic: Topic, name: str, login: Login
    ) -> HttpResponse | None:
        headers = {**HEADERS, **self._http.cors_headers(request)}
        if request.method == "HEAD":
            return 200, headers, b""
        lines = [f"{key}: {value}" for key, value in headers.items()]
        head = "\r\n".join(["HTTP/1.1 200 OK", *lines, "Connection: close"]) + "\r\n\r\n"
        began = connection.become(
            self._core,
            head.encode("latin-1"),
            user_id=login.user_id,
            server_data=login.server_data,
            client_data=login.client_data,
            ends_in=login.ends_in,
        )
        if began:
            last = request.headers.get("last-event-id", "")
            connection.extra = int(last) if last.isdecimal() and len(last) < 16 else None
            connection.handle(Message(topic, SUBSCRIBE[topic], names=[name]))
        return None
