"""Plugins of the kinds that most people write, as their authors annotate them."""

from collections.abc import Awaitable, Mapping
from typing import Any

from dsfast import (
    UNSET,
    Authentication,
    AuthResult,
    Cache,
    Config,
    Logger,
    LogLevel,
    Monitoring,
    Permission,
    Plugin,
    PluginError,
    Server,
    Storage,
    register_plugin,
)
from dsfast.plugin import RecordHandler, Socket


class Tokens(Authentication):
    description = "tokens"

    async def is_valid_user(
        self, connection_data: Mapping[str, Any], auth_data: Mapping[str, Any]
    ) -> AuthResult | None:
        user = self.options["tokens"].get(auth_data.get("token"))
        return AuthResult(True, id=user, client_data=UNSET, server_data={"via": "token"}) if user else None


class OwnNames(Permission):
    def set_record_handler(self, handler: RecordHandler) -> None:
        self.records = handler

    def can_perform_action(self, socket: Socket, message: Any) -> bool | Awaitable[bool]:
        if message.name is None:
            return True
        return self.ask(message.name, socket.user_id)

    async def ask(self, name: str, user: str | None) -> bool:
        version, data = await self.records.get_record(name)
        return version >= 0 and data["owner"] == user


class Rows(Cache):
    async def get(self, name: str) -> tuple[int, Any]:
        return -1, None

    async def set(self, name: str, version: int, data: Any) -> None:
        raise PluginError("full")

    async def delete(self, name: str) -> None:
        self.logger.fatal("INFO", f"{name} {self.config.rpc.ack_timeout}")


class Shelf(Storage):
    async def get(self, name: str) -> tuple[int, Any]:
        return 0, {}

    async def set(self, name: str, version: int, data: Any) -> None: ...

    async def delete(self, name: str) -> None: ...


class Ring(Logger):
    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        if level >= LogLevel.ERROR:
            print(event, message, meta)


class Count(Monitoring):
    def on_login(self, allowed: bool, endpoint_type: str) -> None: ...


async def main() -> None:
    server = Server({"rpc": {"ackTimeout": 5}})
    services, config = server.get_services(), server.get_config()
    server.set("authentication", [Tokens({"tokens": {}}, services, config)])
    server.set("permission", OwnNames)
    register_plugin("rows", Rows)
    await server.start()
    assert server.is_running()
    await server.stop()


def port(config: Config) -> int:
    return config.http.port


def kinds() -> list[type[Plugin]]:
    return [Tokens, OwnNames, Rows, Shelf, Ring, Count]
