"""The HTTP API: batches of messages, logins, records by GET, streams (http.md, docs/http.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from dsfast._core.connection import Connection, Endpoint, VirtualConnection
from dsfast._core.jif import Batch, Scanned, scan
from dsfast._core.json_text import loads
from dsfast._core.protocol import Message, RecordAction, Topic
from dsfast.endpoints.core_endpoint import CoreEndpoint
from dsfast.endpoints.http.answers import Answers
from dsfast.endpoints.http.jif import JifError, parse
from dsfast.endpoints.http.login import Login, Logins, auth_data_of
from dsfast.endpoints.http.openapi import document
from dsfast.endpoints.http.stream import Streams
from dsfast.plugin import HttpError, HttpMeta, PluginError
from dsfast.services.http_service import HttpService
from dsfast.services.http_service.bodies import BodyError, read_json
from dsfast.services.http_service.routes import END, JSON, HttpResponse, Request, json_answer, text_answer
from dsfast.services.logger import FloodGuard

if TYPE_CHECKING:
    from dsfast.config.schema import HttpEndpointOptions

__all__ = ["HttpEndpoint"]

Answer = HttpResponse | Awaitable[Any] | None
"""As a route gives it."""
USUAL_TYPES = ("application/json", "application/json; charset=utf-8", "application/json;charset=utf-8")
NOT_ALONE = "Reading records via HTTP GET is not yet implemented, please use a post request instead."
"""Upstream's answer to a GET without the name of a record."""
NO_BODY = 'Invalid message: the "body" parameter must exist.'
BAD_BODY = 'Invalid message: the "body" parameter must be a non-empty array of Objects.'
NO_AUTH_DATA = "Authentication using authData is disabled. Try using a token instead."
BAD_AUTH_DATA = 'Invalid message: the "authData" parameter must be an object'
BAD_TOKEN = 'Invalid message: the "token" parameter must be a non-empty string'


class HttpEndpoint(CoreEndpoint):
    """Serves requests on the port. Each is a client of its own, logged in for as long as it takes."""

    description = "http"
    options: HttpEndpointOptions

    def init(self) -> None:
        """Register the paths. Raises :class:`PluginError` if one is taken."""
        services, options = self.services, self.options
        router = services.message_distributor
        if not isinstance(services.http_service, HttpService):
            raise PluginError("the HTTP API needs an HTTP service derived from that of dsfast")
        self._http = services.http_service
        self._guard = FloodGuard(services.logger)
        self._logins = Logins(services, log_data=options.log_invalid_auth_data)
        self._answers = Answers(names=options.error_names)
        self._limit = self.config.http.max_message_size
        self.max_names = options.max_batch_length
        self.core = Endpoint(router.hub, router.wheel, router, self)
        self._records = router.record_handler
        self._streams = Streams(self, router, self._http)
        get = options.get_path
        try:
            if options.enable_auth_endpoint:
                self._http.register_route("POST", options.auth_path, self._auth)
            self._http.register_route("POST", options.post_path, self._post)
            self._http.register_get_path_prefix(get, self._get_without_name)
            self._http.register_route("GET", f"{get}/record", self._named(f"{get}/record", self._get_record))
            for topic in (Topic.RECORD, Topic.EVENT):
                path = f"{get}/stream/{topic.name.lower()}"
                self._http.register_route("GET", path, self._named(path, partial(self._stream, topic)))
            text = document(options)
            self._http.register_get_path_prefix(f"{get}/openapi.json", lambda meta: (200, JSON, text))
        except ValueError as error:
            raise PluginError(str(error)) from None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Those of the port."""
        return self._http.addresses

    async def close(self) -> None:
        """Wait until the port has ended its connections."""
        if hasattr(self, "_http"):
            await self._http.close()
            self._guard.close()

    # --- called by the core

    def remote_address(self, headers: Any, peer: str | None) -> str | None:
        """Address of a client."""
        return self._http.remote_address(headers, peer)

    def on_empty(self) -> None:
        """The last connection is gone."""
        self._http.on_empty()

    # --- POST

    def _auth(self, connection: Connection, request: Request) -> Answer:
        try:
            data = read_json(request.headers, request.body, self._limit)
        except BodyError as error:
            return text_answer(error.status, str(error))
        return self._auth_answer(connection, request, data if isinstance(data, dict) else {})

    async def _auth_answer(self, connection: Connection, request: Request, data: dict[str, Any]) -> Any:
        return json_answer(await self._logins.answer(connection, request, data))

    def _post(self, connection: Connection, request: Request) -> Answer:
        elements: Scanned | list[Any] | None = self._scan(request)
        if isinstance(elements, Scanned):
            auth_data = self._auth_data(_login_data(elements))
        else:
            try:
                data = read_json(request.headers, request.body, self._limit)
            except BodyError as error:
                return text_answer(error.status, str(error))
            if not isinstance(data, dict):
                data = {}
            elements = self._elements(data)
            auth_data = self._auth_data(data)
        login = self._logins.begin(connection, request, auth_data)
        if isinstance(login, Login):
            return self._run(connection, request, login, elements)
        return self._run_later(connection, request, login, elements)

    def _scan(self, request: Request) -> Scanned | None:
        """What the core can read alone: the usual requests, in the usual form."""
        headers = request.headers
        if headers.get("content-type") not in USUAL_TYPES or "content-encoding" in headers:
            return None
        found = scan(bytes(request.body))
        return found if found is not None and len(found) <= self.options.max_batch_length else None

    def _elements(self, data: dict[str, Any]) -> list[Any]:
        elements = data.get("body")
        if elements is None or elements is False or elements in (0, ""):
            raise HttpError(400, NO_BODY)
        if not isinstance(elements, list) or not elements:
            raise HttpError(400, BAD_BODY)
        limit = self.options.max_batch_length
        if len(elements) > limit:
            text = f'Invalid message: the "body" parameter must not have more than {limit} elements.'
            raise HttpError(400, text)
        return elements

    def _auth_data(self, data: dict[str, Any]) -> dict[str, Any]:
        if "authData" in data:
            if not self.options.allow_auth_data:
                raise HttpError(400, NO_AUTH_DATA)
            auth_data = data["authData"]
            if not isinstance(auth_data, dict | list):
                raise HttpError(400, BAD_AUTH_DATA)
            return auth_data if isinstance(auth_data, dict) else {}
        if "token" in data:
            if not isinstance(data["token"], str) or not data["token"]:
                raise HttpError(400, BAD_TOKEN)
            return {"token": data["token"]}
        return {}

    async def _run_later(
        self, connection: Connection, request: Request, login: Awaitable[Login], elements: Scanned | list[Any]
    ) -> HttpResponse | None:
        return self._run(connection, request, await login, elements)

    def _run(
        self, connection: Connection, request: Request, login: Login, elements: Scanned | list[Any]
    ) -> HttpResponse | None:
        if isinstance(elements, list):
            elements = _messages(elements)
        batch = Batch(self.core, self._answers, login, elements)
        body = batch.start()
        if body is not None:
            return _json_text(body)

        def done(body: bytes) -> None:
            connection.remove_on_close(batch.abandon)
            self._http.respond(connection, request, _json_text(body))

        batch.wait(self.options.request_timeout / 1000, self._log_timeout, done)
        connection.on_close(batch.abandon)
        return None

    def _log_timeout(self) -> None:
        self._guard.warn("http", "HTTP_REQUEST_TIMEOUT", "HTTP Request timeout")

    # --- GET

    @staticmethod
    def _get_without_name(meta: HttpMeta) -> HttpResponse:
        return text_answer(400, NOT_ALONE)

    def _named(
        self, prefix: str, answer: Callable[[Connection, Request, str, Login], Answer]
    ) -> Callable[[Connection, Request], Answer]:
        """A route for paths that end with a name, with the login of the header Authorization."""

        def route(connection: Connection, request: Request) -> Answer:
            rest = request.target.partition(b"?")[0][len(prefix) + 1 :]
            try:
                name = unquote_to_bytes(rest).decode()
            except UnicodeDecodeError:
                raise HttpError(400, "The name in the path is not UTF-8.") from None
            if not name:
                raise HttpError(404, "Endpoint not found.")
            auth_data = auth_data_of(request.headers, allow_passwords=self.options.allow_auth_data)
            login = self._logins.begin(connection, request, auth_data)
            if isinstance(login, Login):
                return answer(connection, request, name, login)
            return later(connection, request, name, login)

        async def later(connection: Connection, request: Request, name: str, login: Awaitable[Login]) -> Any:
            result = answer(connection, request, name, await login)
            return result if result is None or isinstance(result, tuple) else await result

        return route

    def _get_record(self, connection: Connection, request: Request, name: str, login: Login) -> Answer:
        if self._records is None:
            raise HttpError(404, "Records are disabled on this server.")
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def take(message: Message) -> None:
            if not answer.done():
                answer.set_result(message)

        reader = VirtualConnection(
            self.core,
            take,
            user_id=login.user_id,
            server_data=login.server_data,
            client_data=login.client_data,
            handshake=login.connection_data,
        )
        reader.handle(Message(Topic.RECORD, RecordAction.READ, name=name))
        if answer.done():
            reader.end()
            return self._record_answer(request, answer.result())
        return self._record_later(request, reader, answer)

    async def _record_later(
        self, request: Request, reader: VirtualConnection, answer: asyncio.Future[Message]
    ) -> HttpResponse:
        try:
            async with asyncio.timeout(self.options.request_timeout / 1000):
                return self._record_answer(request, await answer)
        except TimeoutError:
            self._log_timeout()
            raise HttpError(504, "Request exceeded timeout before a response was received.") from None
        finally:
            reader.end()

    @staticmethod
    def _record_answer(request: Request, message: Message) -> HttpResponse:
        action = message.action
        if action == RecordAction.READ_RESPONSE:
            etag = f'"{message.version}"'
            headers = {
                **JSON,
                "ETag": etag,
                "Cache-Control": "private, no-cache",
                "Access-Control-Expose-Headers": "ETag",
            }
            if _matches(request.headers.get("if-none-match"), etag):
                return 304, headers, b""
            return 200, headers, (message.data or b"{}") + END
        if action == RecordAction.RECORD_NOT_FOUND:
            raise HttpError(404, f'Record read failed. Record "{message.name}" could not be found.')
        if action in (RecordAction.MESSAGE_DENIED, RecordAction.MESSAGE_PERMISSION_ERROR):
            raise HttpError(403, 'Message denied. Action "READ" is not permitted.')
        raise HttpError(503, f"An error occurred: {RecordAction(action).name}.")

    def _stream(
        self, topic: Topic, connection: Connection, request: Request, name: str, login: Login
    ) -> Answer:
        return self._streams.open(connection, request, topic, name, login)


def _login_data(scanned: Scanned) -> dict[str, Any]:
    """What a request says about its login."""
    data: dict[str, Any] = {}
    if scanned.auth_data is not None:
        data["authData"] = loads(scanned.auth_data)
    if scanned.token is not None:
        data["token"] = loads(scanned.token)
    return data


def _messages(elements: list[Any]) -> list[Message]:
    """The messages for some elements. Raises HttpError 400."""
    messages: list[Message] = []
    try:
        for element in elements:
            messages.append(parse(element))
    except JifError as error:
        text = f"Failed to parse JIF object at index {len(messages)}. Reason: {error}"
        raise HttpError(400, text) from None
    return messages


def _json_text(text: bytes) -> HttpResponse:
    return 200, JSON, text + END


def _matches(condition: str | None, etag: str) -> bool:
    """Whether a client has this version already (RFC 9110 section 13.1.2)."""
    if condition is None:
        return False
    return any(tag.strip().removeprefix("W/") in ("*", etag) for tag in condition.split(","))
