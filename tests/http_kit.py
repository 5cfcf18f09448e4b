"""A server with the HTTP API, and requests to it, for the tests of HTTP."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from wire import END, Client, Response, Running, serve

JSON_TYPE = {"Content-Type": "application/json"}


class Api:
    """Sends requests on one kept connection."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """One request, without waiting for the answer."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.client.write("\r\n".join(lines).encode("latin-1") + END + (body or b""))

    async def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        """One request and its answer."""
        self.send(method, path, body, headers)
        return await self.client.response(head_only=method == "HEAD")

    async def get(self, path: str, **headers: str) -> Response:
        """GET; keyword arguments are headers (``_`` for ``-``)."""
        return await self.request("GET", path, None, {k.replace("_", "-"): v for k, v in headers.items()})

    async def post(self, data: Any, path: str = "/api", **headers: str) -> Response:
        """POST of a JSON value, or of bytes as they are."""
        body = data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()
        given = {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.request("POST", path, body, JSON_TYPE | given)

    async def batch(self, *elements: Any, **login: Any) -> Any:
        """The answers to some elements, which have to be accepted as a whole."""
        response = await self.post({"body": list(elements), **login})
        assert response.status == 200, response.body
        return json.loads(response.body)["body"]

    async def one(self, element: Any, **login: Any) -> Any:
        """The answer to one element."""
        (answer,) = await self.batch(element, **login)
        return answer


def text(response: Response) -> str:
    """The text of an answer, which has to end as all do."""
    assert response.body.endswith(END)
    return response.body[:-4].decode()


@asynccontextmanager
async def serve_http(
    config: dict[str, Any] | None = None,
    *,
    options: dict[str, Any] | None = None,
    port: dict[str, Any] | None = None,
    **services: Any,
) -> AsyncIterator[tuple[Running, Api]]:
    """A server with websockets and the HTTP API; ``options`` are those of the API, ``port`` of the port."""
    whole = {
        "httpServer": {"options": {"host": "127.0.0.1", "port": 0, **(port or {})}},
        "connectionEndpoints": [{"type": "ws-binary"}, {"type": "http", "options": options or {}}],
        **(config or {}),
    }
    async with serve(whole, **services) as s:
        yield s, Api(await s.connect())
