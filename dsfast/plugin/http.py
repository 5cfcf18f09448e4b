"""The port of the server as other services and plugins use it (plugins.md B.14)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsfast.plugin.base import Plugin

if TYPE_CHECKING:
    from dsfast.plugin.socket import Socket

__all__ = ["HttpError", "HttpMeta", "HttpService"]


@dataclass(frozen=True, slots=True)
class HttpMeta:
    """What a handler may know of a request: its headers (lower case names) and its target."""

    headers: dict[str, str]
    url: str


class HttpError(Exception):
    """Answers a request with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class HttpService(Plugin):
    """Listens for HTTP and websockets, and brings both to those who have registered for their path.

    Paths may be registered before and after it listens; the longest prefix counts. The server calls
    :meth:`open` when the handlers exist and :meth:`listen` when all endpoints are ready. Whoever replaces the
    built-in one best derives from it (``dsfast.services.http_service.HttpService``).
    """

    @abstractmethod
    def register_get_path_prefix(self, prefix: str, handler: Callable[[HttpMeta], Any]) -> None:
        """Answer GET requests whose path begins with ``prefix``.

        ``handler(meta)`` returns a JSON value, a triple of status, headers and body, or an awaitable of one;
        None is an empty 200. It may raise :class:`HttpError`. Raises ValueError if the prefix is taken.
        """

    @abstractmethod
    def register_post_path_prefix(self, prefix: str, handler: Callable[[Any, HttpMeta], Any]) -> None:
        """Answer POST requests with a JSON body: ``handler(data, meta)``, else as for GET."""

    @abstractmethod
    def register_websocket_endpoint(self, path: str, endpoint: Any) -> None:
        """Hand the websockets that ask for ``path`` to an endpoint. Raises ValueError if it is taken."""

    @abstractmethod
    def get_sockets_for_user(self, user_id: str) -> Sequence[Socket]:
        """The open connections of a user."""

    def open(self, router: Any) -> None:
        """The handlers are there; ``router`` brings messages to them."""

    @abstractmethod
    async def listen(self) -> None:
        """Accept clients. Raises OSError."""

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Addresses and ports that are listened on; empty before the start and after the stop."""
        return []

    @property
    def listening(self) -> list[str]:
        """What is listened on, for people: ``host:port`` or ``unix:/path``."""
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses]

    def stop_accepting(self) -> None:
        """Refuse new clients from now on; those connected stay until :meth:`close`."""

    def on_empty(self) -> None:
        """The last connection of the port is gone (called by the endpoints that share it)."""

    def origin_allowed(self, headers: Mapping[str, str]) -> bool:
        """Whether a page of this origin may open a websocket."""
        return True

    def remote_address(self, headers: Mapping[str, str], peer: str | None) -> str | None:
        """Address of a client; ``peer`` is that of its connection, perhaps a proxy's."""
        return peer
