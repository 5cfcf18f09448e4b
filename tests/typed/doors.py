"""Endpoints, the HTTP service and custom plugins."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from dsfast import ConnectionEndpoint, HttpError, HttpMeta, HttpService, Plugin, Socket
from dsfast.endpoints.own_protocol import OwnProtocolEndpoint
from dsfast.plugin import ConnectionListener
from dsfast.protocol import Message


class Lines(ConnectionEndpoint):
    description = "lines"

    async def when_ready(self) -> None:
        self.port = int(self.options.get("port", 0))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", self.port)]

    def stop_accepting(self) -> None: ...

    def get_client_versions(self) -> Mapping[str, Set[str]]:
        return {"lines": {"1"}}


class Words(OwnProtocolEndpoint):
    description = "words"

    def parse(self, frame: str) -> list[Message]:
        topic, action, name = frame.split()
        return [Message(int(topic), int(action), name=name)]

    def encode(self, message: Message) -> str | None:
        return f"{message.topic} {message.action} {message.name}" if message.name else None


class Port(HttpService):
    def register_get_path_prefix(self, prefix: str, handler: Callable[[HttpMeta], Any]) -> None:
        handler(HttpMeta({}, prefix))

    def register_post_path_prefix(self, prefix: str, handler: Callable[[Any, HttpMeta], Any]) -> None:
        handler(None, HttpMeta({}, prefix))

    def register_websocket_endpoint(self, path: str, endpoint: Any) -> None: ...

    def get_sockets_for_user(self, user_id: str) -> Sequence[Socket]:
        return []

    async def listen(self) -> None: ...


class Admin(Plugin):
    description = "admin"

    async def when_ready(self) -> None:
        self.services.http_service.register_post_path_prefix("/kick", self.kick)
        self.services.http_service.register_get_path_prefix("/who", lambda meta: meta.url)

    async def kick(self, body: Any, meta: HttpMeta) -> dict[str, int]:
        if meta.headers.get("x-key") != self.options["key"]:
            raise HttpError(401, "no")
        sockets = self.services.http_service.get_sockets_for_user(body["user"])
        for socket in sockets:
            socket.destroy()
        return {"closed": len(sockets)}

    def on_client_connected(self, socket: Socket) -> None:
        self.logger.info("INFO", f"in {socket.user_id} {socket.handshake_data['remoteAddress']}")

    def on_client_disconnected(self, socket: Socket) -> None:
        self.logger.get_namespace("ADMIN").info("INFO", f"out {socket.user_id}")


def is_listener(plugin: Admin) -> ConnectionListener:
    return plugin
