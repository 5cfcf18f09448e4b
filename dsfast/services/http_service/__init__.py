"""The port of the server: HTTP requests, and the websockets that begin as one (http.md, plugins.md B.14)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dsfast._core.connection import Connection, Endpoint
from dsfast._core.json_text import loads
from dsfast.endpoints.listener import Listener
from dsfast.plugin import HttpService as HttpServiceContract
from dsfast.plugin import PluginError, Socket
from dsfast.services.http_service.proxies import Proxies
from dsfast.services.http_service.routes import (
    HttpError,
    HttpMeta,
    HttpResponse,
    Request,
    Routes,
    answer_of,
    text_answer,
)
from dsfast.services.logger import FloodGuard

__all__ = ["HttpService"]


class WebSocketOwner(Protocol):
    """An endpoint whose connections begin on the port."""

    @property
    def core(self) -> Endpoint:
        """Its part in the core."""


class HttpService(HttpServiceContract):
    """Listens, answers requests, and hands websockets to the endpoints that have registered their path.

    It is made before the endpoints and listens when they are all ready (:meth:`listen`).
    """

    description = "HTTP and websockets on one port"
    core: Endpoint
    max_names = 0

    def init(self) -> None:
        """Check the options. Raises :class:`PluginError`."""
        options = self.config.http
        if not options.allow_all_origins and not options.origins:
            raise PluginError("HTTP allowAllOrigins set to false but no origins provided")
        self._guard = FloodGuard(self.services.logger)
        self._proxies = Proxies(options.trusted_proxies, self._unknown_proxy)
        self._routes = Routes()
        self._requests: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Future[None] | None = None
        self.register_get_path_prefix(options.health_check_path, self._health)

    def open(self, router: Any) -> None:
        """The handlers are there: make the part in the core."""
        options = self.config.http
        self.core = Endpoint(router.hub, router.wheel, router, self)
        self.core.paths = {}
        self.core.max_body_size = options.max_message_size
        self._listener = Listener(self.core)

    # --- for endpoints and plugins

    def register_get_path_prefix(self, prefix: str, handler: Callable[[HttpMeta], Any]) -> None:
        """Answer GET requests whose path begins with ``prefix``; the longest prefix counts.

        ``handler(meta)`` returns a JSON value, a triple of status, headers and body, or an awaitable of one;
        None is an empty 200. It may raise :class:`HttpError`. Raises ValueError if the prefix is taken.
        """
        self._routes.add("GET", prefix, handler)

    def register_post_path_prefix(self, prefix: str, handler: Callable[[Any, HttpMeta], Any]) -> None:
        """Answer POST requests: ``handler(data, meta)`` with the JSON value of the body, else as for GET.

        Raises ValueError if the prefix is taken.
        """
        self._routes.add("POST", prefix, handler)

    def get_sockets_for_user(self, user_id: str) -> list[Socket]:
        """The open connections of a user, on whatever path they came."""
        cores = [getattr(endpoint, "core", None) for endpoint in self.services.connection_endpoints]
        return [
            connection
            for core in cores
            if isinstance(core, Endpoint)
            for connection in core.open_connections()
            if connection.user_id == user_id
        ]

    def register_websocket_endpoint(self, path: str, endpoint: WebSocketOwner) -> None:
        """Hand the websockets that ask for ``path`` to an endpoint. Raises ValueError if it is taken."""
        endpoint.core.url_path = path.encode()
        endpoint.core.join(self.core)

    def origin_allowed(self, headers: Mapping[str, str]) -> bool:
        """Whether a page of this origin may open a websocket (protocol-binary.md section 1).

        Browsers send cookies with an upgrade whatever page asks for it, so the rules of HTTP hold here too.
        """
        options = self.config.http
        return (
            options.allow_all_origins or (headers.get("origin") or headers.get("referer")) in options.origins
        )

    def remote_address(self, headers: Mapping[str, str], peer: str | None) -> str | None:
        """Address of a client, behind trusted proxies too."""
        return self._proxies.client(headers, peer)

    # --- life cycle

    async def listen(self) -> None:
        """Open the port. Raises OSError."""
        options = self.config.http
        await self._listener.listen(options.host, options.port)
        self._listener.accept_when_data_came()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Addresses and ports that are listened on; empty before the start and after the stop."""
        return self._listener.addresses if hasattr(self, "_listener") else []

    def stop_accepting(self) -> None:
        """Refuse new clients from now on."""
        if hasattr(self, "_listener"):
            self._listener.stop_accepting()

    async def close(self) -> None:
        """End all connections of the port, those of the websocket endpoints too; idempotent."""
        if not hasattr(self, "_listener"):
            return
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for task in self._requests:
            task.cancel()
        try:
            await self._listener.close()
        finally:
            self._guard.close()

    # --- called by the core

    def on_empty(self) -> None:
        """The last connection is gone."""
        self._listener.on_empty()

    def on_http(self, connection: Connection, request: Request) -> HttpResponse | None:
        """Answer a request that is no upgrade; None if the answer follows."""
        try:
            answer = self._answer(request)
        except HttpError as error:
            answer = text_answer(error.status, str(error))
        except Exception as error:
            answer = self._fault(error)
        if inspect.isawaitable(answer):
            task = asyncio.ensure_future(self._respond(connection, answer))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)
            return None
        return self._finished(answer)

    async def _respond(self, connection: Connection, waiting: Any) -> None:
        try:
            answer = await waiting
        except HttpError as error:
            answer = text_answer(error.status, str(error))
        except Exception as error:
            answer = self._fault(error)
        connection.respond(*self._finished(answer))

    def _answer(self, request: Request) -> Any:
        if request.method not in ("GET", "POST"):
            raise HttpError(405, "Unsupported method. Supported methods: GET, POST, OPTIONS")
        url = request.target.decode("latin-1")
        handler = self._routes.find(request.method, url.partition("?")[0])
        if handler is None:
            raise HttpError(404, "Endpoint not found.")
        meta = HttpMeta(request.headers, url)
        if request.method == "GET":
            return answer_of(handler(meta))
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HttpError(415, 'Invalid "Content-Type" header. Supported media types: "application/json"')
        try:
            data = loads(bytes(request.body))
        except ValueError as error:
            raise HttpError(400, f"Failed to parse body of request: {error}") from None
        return answer_of(handler(data, meta))

    def _finished(self, answer: HttpResponse) -> HttpResponse:
        status, headers, body = answer
        if self.config.http.allow_all_origins:
            headers = {**headers, "Access-Control-Allow-Origin": "*"}
        return status, headers, body

    def _fault(self, error: Exception) -> HttpResponse:
        self.log_exception("exception while answering a request", error)
        return text_answer(500, "Internal server error.")

    def _health(self, meta: HttpMeta) -> HttpResponse:
        """Nothing while all is well (storages.md section 10.5).

        A storage whose writes are being retried makes it ``degraded``, with status 200, since clients are
        served; one that has given up makes it ``unhealthy``, with status 503.
        """
        status, body = 200, b""
        writer = self.services.storage_writer
        if not getattr(self.services.storage, "healthy", True):
            status, body = 503, b'{"status":"unhealthy"}'
        elif writer is not None and writer.degraded:
            body = b'{"status":"degraded"}'
        return status, {"Content-Type": "application/json; charset=utf-8"}, body

    def log_exception(self, text: str, error: Exception) -> None:
        """A fault of the server itself; the request that met it is lost, nothing else is."""
        self._guard.error("server", "ERROR", f"{text}: {error!r}")

    def _unknown_proxy(self, address: str) -> None:
        self.logger.warn(
            "INVALID_CONFIG_DATA",
            f"{address} forwards clients, but httpServer.options.trustedProxies does not have it, "
            "so they all have its address",
        )
