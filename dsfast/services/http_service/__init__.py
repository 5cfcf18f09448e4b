"""The port of the server: HTTP requests, and the websockets that begin as one (http.md, plugins.md B.14)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from dsfast._core.connection import Connection, Endpoint
from dsfast.config.files import resolve_path
from dsfast.endpoints.admission import Admission
from dsfast.endpoints.listener import Listener
from dsfast.endpoints.tls import certificates_of
from dsfast.plugin import HttpError, HttpMeta, PluginError, Socket
from dsfast.plugin import HttpService as HttpServiceContract
from dsfast.services.http_service.cors import METHODS, Cors
from dsfast.services.http_service.proxies import Proxies
from dsfast.services.http_service.routes import (
    JSON,
    HttpResponse,
    Request,
    Route,
    Routes,
    get_route,
    post_route,
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
        self._certificates = certificates_of(
            options.ssl, "/httpServer/options/ssl", self.config, self.logger, alpn=["http/1.1"]
        )
        self._cors = Cors(options)
        self._routes = Routes()
        self._requests: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Future[None] | None = None
        self._health_route = get_route(self._health)
        self.register_route("GET", options.health_check_path, self._health_route)

    def open(self, router: Any) -> None:
        """The handlers are there: make the part in the core."""
        options = self.config.http
        self.core = Endpoint(router.hub, router.wheel, router, self)
        self.core.paths = {}
        self.core.max_body_size = options.max_message_size
        self.core.head_timeout = options.head_timeout
        self.core.body_timeout = options.body_timeout
        if options.max_connections is not None or options.max_connections_per_address is not None:
            self.core.admission = Admission(
                options.max_connections,
                options.max_connections_per_address,
                self._proxies.trusts,
                self._refused,
            )
        self._listener = Listener(
            self.core,
            certificates=self._certificates,
            speaks_for_others=self._proxies.trusts if options.proxy_protocol else None,
            refused=self._refused,
        )

    # --- for endpoints and plugins

    def register_get_path_prefix(self, prefix: str, handler: Callable[[HttpMeta], Any]) -> None:
        """Answer GET requests whose path begins with ``prefix``; the longest prefix counts.

        A prefix ends at a ``/`` or at the end of the path. ``handler(meta)`` returns a JSON value, a triple
        of status, headers and body, or an awaitable of one; None is an empty 200. It may raise
        :class:`dsfast.plugin.HttpError`. Raises ValueError if the prefix is taken.
        """
        self.register_route("GET", prefix, get_route(handler))

    def register_post_path_prefix(self, prefix: str, handler: Callable[[Any, HttpMeta], Any]) -> None:
        """As :meth:`register_get_path_prefix` for POST requests: ``handler(data, meta)`` gets their body.

        ``data`` is an object or an array, None if there is no body. Bodies that are no JSON or larger than
        ``maxMessageSize`` are refused before.
        """
        self.register_route("POST", prefix, post_route(handler, self.config.http.max_message_size))

    def register_route(self, method: str, prefix: str, route: Route) -> None:
        """As the others, for those who want the connection and the request as it came."""
        self._routes.add(method, prefix, route)

    def get_sockets_for_user(self, user_id: str) -> list[Socket]:
        """The open connections of a user: websockets and streams."""
        return [
            connection
            for connection in self.core.connections
            if connection.user_id == user_id and not connection.is_closed
        ]

    def register_websocket_endpoint(self, path: str, endpoint: WebSocketOwner) -> None:
        """Hand the websockets that ask for ``path`` to an endpoint. Raises ValueError if it is taken."""
        endpoint.core.url_path = path.encode()
        endpoint.core.join(self.core)

    def origin_allowed(self, headers: Mapping[str, str]) -> bool:
        """Whether a page of this origin may open a websocket (protocol-binary.md section 1).

        Browsers send cookies with an upgrade whatever page asks for it, so the rules of HTTP hold here too.
        """
        return self._cors.refusal(headers) is None

    @property
    def error_headers(self) -> dict[str, str]:
        """Headers of the core's own answers to what is no proper request."""
        return self._cors.error_headers

    def remote_address(self, headers: Mapping[str, str], peer: str | None) -> str | None:
        """Address of a client, behind trusted proxies too."""
        return self._proxies.client(headers, peer)

    # --- life cycle

    async def listen(self) -> None:
        """Open the port. Raises OSError."""
        options = self.config.http
        for address in options.addresses:
            if isinstance(address, str):
                path = resolve_path(address, self.config.source.directory or ".")
                await self._listener.listen_unix(path, int(options.unix_socket_mode, 8))
            else:
                await self._listener.listen(*address)
        self._listener.accept_when_data_came()
        if self._certificates is not None:
            self._certificates.watch()

    async def reload(self) -> bool | None:
        """Read the certificate again; None without TLS, False if it cannot be used and the old one stays."""
        return None if self._certificates is None else await self._certificates.reload()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Addresses and ports that are listened on; empty before the start and after the stop."""
        return self._listener.addresses if hasattr(self, "_listener") else []

    @property
    def listening(self) -> list[str]:
        """As :attr:`addresses`, for people, and with the Unix sockets."""
        if not hasattr(self, "_listener"):
            return []
        return super().listening + [f"unix:{path}" for path in self._listener.paths]

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
        if self._certificates is not None:
            self._certificates.close()
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
            answer = self._answer(connection, request)
        except HttpError as error:
            answer = text_answer(error.status, str(error))
        except Exception as error:
            answer = self._fault(error)
        if isinstance(answer, tuple):
            return self._finished(request, answer)
        if answer is not None:
            task = asyncio.ensure_future(self._respond(connection, request, answer))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)
        return None

    async def _respond(self, connection: Connection, request: Request, waiting: Any) -> None:
        try:
            answer = await waiting
        except HttpError as error:
            answer = text_answer(error.status, str(error))
        except Exception as error:
            answer = self._fault(error)
        if answer is not None:
            self.respond(connection, request, answer)

    def respond(self, connection: Connection, request: Request, answer: HttpResponse) -> None:
        """Answer a request whose route gave None; nothing happens if its client has gone."""
        connection.respond(*self._finished(request, answer))

    def _answer(
        self, connection: Connection, request: Request
    ) -> HttpResponse | Awaitable[HttpResponse] | None:
        method = "GET" if request.method == "HEAD" else request.method
        route = self._routes.find(method, request.target.decode("latin-1").partition("?")[0])
        # Those who ask whether the server works are no pages.
        if route is not self._health_route and (refusal := self._cors.refusal(request.headers)):
            return refusal
        if method == "OPTIONS":
            return self._cors.preflight(request.headers)
        if method not in ("GET", "POST"):
            status, headers, body = text_answer(405, f"Unsupported method. Supported methods: {METHODS}")
            return status, {**headers, "Allow": "GET, HEAD, POST, OPTIONS"}, body
        if route is None:
            raise HttpError(404, "Endpoint not found.")
        return route(connection, request)

    def _finished(self, request: Request, answer: HttpResponse) -> HttpResponse:
        status, headers, body = answer
        return status, {**headers, **self.cors_headers(request)}, body

    def cors_headers(self, request: Request) -> dict[str, str]:
        """What every answer to a request tells the browser."""
        return self._cors.headers(request.headers)

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
        return status, JSON, body

    def log_exception(self, text: str, error: Exception) -> None:
        """A fault of the server itself; the request that met it is lost, nothing else is."""
        self._guard.error("server", "ERROR", f"{text}: {error!r}")

    def _refused(self, address: str, reason: str) -> None:
        """A connection did not come about."""
        self._guard.info(
            address, "CONNECTION_ERROR", f"connection of {address or 'somebody'} refused: {reason}"
        )

    def _unknown_proxy(self, address: str) -> None:
        self.logger.warn(
            "INVALID_CONFIG_DATA",
            f"{address} forwards clients, but httpServer.options.trustedProxies does not have it, "
            "so they all have its address",
        )
