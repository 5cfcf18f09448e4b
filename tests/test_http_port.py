"""The port for HTTP: origins, hosts, preflights, handlers of plugins, and input that is none."""

import asyncio
import json
import random
from typing import Any

import pytest
from http_kit import JSON_TYPE, Api, serve_http, text
from wire import END, Users, upgrade_request

from dsfast.plugin import HttpError, HttpMeta, Plugin

GOOD = "https://good.example"
RESTRICTED = {"allowAllOrigins": False, "origins": [GOOD, "https://slash.example/"]}
HEADERS = "X-Requested-With, X-HTTP-Method-Override, Content-Type, Accept"
EMIT = {"body": [{"topic": "event", "action": "emit", "eventName": "e"}]}


async def test_all_origins_by_default() -> None:
    async with serve_http() as (s, api):
        for response in (
            await api.get("/health-check"),
            await api.get("/nothing"),
            await api.post(EMIT, Origin="https://any.example"),
            await api.post(b"no json"),
            await api.request("PUT", "/api"),
            await api.request("OPTIONS", "/x", None, {"Access-Control-Request-Method": "GET"}),
        ):
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers
        # Even what is refused before it is a request can be seen by the page that sent it.
        other = await s.connect()
        other.write(b"nonsense" + END)
        response = await other.response()
        assert (response.status, response.headers["access-control-allow-origin"]) == (400, "*")


@pytest.mark.parametrize(
    ("headers", "origin", "refusal"),
    [
        ({"Origin": GOOD}, GOOD, None),
        ({"Origin": "https://slash.example"}, "https://slash.example", None),
        ({"Referer": GOOD + "/page?x=https://evil.example"}, GOOD, None),
        ({"Referer": GOOD}, GOOD, None),
        ({"Origin": "https://evil.example", "Referer": GOOD}, None,
         'Origin "https://evil.example" is forbidden.'),
        ({"Origin": GOOD + ".evil.example"}, None, f'Origin "{GOOD}.evil.example" is forbidden.'),
        ({"Referer": GOOD + ".evil.example/"}, None, f'Origin "{GOOD}.evil.example" is forbidden.'),
        ({"Referer": "http://[x"}, None, 'Origin "http://[x" is forbidden.'),
        ({"Referer": "about:blank"}, None, 'Origin "about:blank" is forbidden.'),
        ({"Origin": "null"}, None, 'Origin "null" is forbidden.'),
        ({}, None, 'CORS is configured for this. All requests must set a valid "Origin" header.'),
        ({"Origin": ""}, None, 'CORS is configured for this. All requests must set a valid "Origin" header.'),
    ],
)  # fmt: skip
async def test_some_origins(headers: dict[str, str], origin: str | None, refusal: str | None) -> None:
    async with serve_http(port=RESTRICTED) as (s, api):
        for method, path in [
            ("POST", "/api"),
            ("GET", "/api/record/x"),
            ("GET", "/nothing"),
            ("PUT", "/api"),
        ]:
            body = json.dumps(EMIT).encode() if method == "POST" else None
            response = await api.request(method, path, body, JSON_TYPE | headers)
            if refusal is None:
                assert response.status != 403
                assert response.headers["access-control-allow-origin"] == origin
                assert response.headers["access-control-allow-credentials"] == "true"
            else:
                assert (response.status, text(response)) == (403, refusal)
                assert "access-control-allow-origin" not in response.headers
            assert response.headers["vary"] == "Origin"
        # Websockets obey the same rules; whoever asks for the health of the server is no page.
        other = await s.connect()
        other.write(upgrade_request(**{name: value for name, value in headers.items() if value}))
        assert (await other.response()).status == (101 if refusal is None else 403)
        assert (await api.get("/health-check")).status == 200


async def test_only_one_host() -> None:
    for given in ("Api.example:6020", "https://api.example:6020/"):
        async with serve_http(port={"hostUrl": given}) as (s, _):
            for host, status in [
                ("api.example:6020", 200),
                ("API.example:6020", 200),
                ("other", 403),
                ("", 403),
            ]:
                client = await s.connect()
                body = json.dumps(EMIT).encode()
                head = [f"POST /api HTTP/1.1\r\nHost: {host}", "Content-Type: application/json"]
                head.append(f"Content-Length: {len(body)}")
                client.write("\r\n".join(head).encode() + END + body)
                response = await client.response()
                assert response.status == status
                if status == 403:
                    assert text(response) == "Forbidden Host."
                other = await s.connect()
                other.write(upgrade_request(Host=host))
                assert (await other.response()).status == (101 if status == 200 else 403)
            health = await s.connect()
            health.write(b"GET /health-check HTTP/1.1\r\nHost: 10.0.0.1" + END)
            assert (await health.response()).status == 200


@pytest.mark.parametrize(
    ("headers", "status", "answer"),
    [
        ({}, 400, 'Missing header "Access-Control-Request-Method".'),
        ({"Method": "PUT"}, 403, "Method PUT is forbidden. Supported methods: GET, POST, OPTIONS"),
        ({"Method": "post"}, 403, "Method post is forbidden. Supported methods: GET, POST, OPTIONS"),
        ({"Method": "POST", "Headers": "content-type, X-Foo"}, 403,
         f"Header  X-Foo is forbidden. Supported headers: {HEADERS}"),
        ({"Method": "POST", "Headers": "content-type, ,"}, 204, HEADERS),
        ({"Method": "POST", "Headers": "X-REQUESTED-WITH, accept,content-type"}, 204, HEADERS),
        ({"Method": "GET"}, 204, HEADERS),
        ({"Method": "GET", "Headers": ""}, 204, HEADERS),
        ({"Method": "GET", "Headers": "authorization, last-event-id"}, 204,
         f"{HEADERS}, Authorization, Last-Event-ID"),
    ],
)  # fmt: skip
async def test_preflights(headers: dict[str, str], status: int, answer: str) -> None:
    async with serve_http() as (_, api):
        given = {f"Access-Control-Request-{name}": value for name, value in headers.items()}
        for path in ("/api", "/anything"):
            response = await api.request("OPTIONS", path, None, given)
            assert response.status == status
            if status == 204:
                assert response.body == b""
                assert response.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
                assert response.headers["access-control-allow-headers"] == answer
            else:
                assert text(response) == answer


class Handlers(Plugin):
    """The example of plugins.md B.1, and odd ones."""

    description = "handlers"

    async def when_ready(self) -> None:
        http = self.services.http_service
        http.register_post_path_prefix("/kick", self.kick)
        http.register_post_path_prefix("/kick/more", lambda data, meta: {"more": data, "url": meta.url})
        http.register_get_path_prefix("/count", lambda meta: {"count": 1})
        http.register_get_path_prefix("/nothing", lambda meta: None)
        http.register_get_path_prefix("/fault", self.fault)
        http.register_get_path_prefix("/late-fault", self.late_fault)
        with pytest.raises(ValueError, match="answered by somebody else"):
            http.register_get_path_prefix("/count", self.fault)

    async def kick(self, data: Any, meta: HttpMeta) -> Any:
        if meta.headers.get("x-key") != "key":
            raise HttpError(401, "no")
        sockets = self.services.http_service.get_sockets_for_user(data["user"])
        for socket in sockets:
            socket.destroy()
        return {"closed": len(sockets)}

    def fault(self, meta: HttpMeta) -> Any:
        raise RuntimeError("secret")

    async def late_fault(self, meta: HttpMeta) -> Any:
        raise RuntimeError("secret")


async def test_handlers_of_plugins() -> None:
    config = {"plugins": {"handlers": {"class": Handlers}}}
    async with serve_http(config, authentication=Users) as (s, api):
        first, second = await s.login("A"), await s.login("A")
        await s.login("B")
        response = await api.post({"user": "A"}, "/kick")
        assert (response.status, text(response)) == (401, "no")
        response = await api.post({"user": "A"}, "/kick?x", X_Key="key")
        assert (response.status, json.loads(response.body)) == (200, {"closed": 2})
        assert await first.closed() is None
        assert await second.closed() is None
        assert json.loads((await api.post([1], "/kick/more/x?y")).body) == {
            "more": [1],
            "url": "/kick/more/x?y",
        }
        assert json.loads((await api.post(b"", "/kick/more")).body)["more"] is None
        assert json.loads((await api.get("/count")).body) == {"count": 1}
        response = await api.get("/nothing")
        assert (response.status, response.body) == (200, b"")
        for path in ("/fault", "/late-fault"):
            response = await api.get(path)
            assert (response.status, text(response)) == (500, "Internal server error.")
        assert (await api.post({}, "/count")).status == 404
        assert (await api.get("/kick")).status == 404
        assert (await api.request("POST", "/kick", b"{}")).status == 415


def pieces(rng: random.Random) -> bytes:
    """Something like HTTP, or not."""
    good = json.dumps(EMIT).encode()
    body = good if rng.random() < 0.5 else bytes(rng.randrange(256) for _ in range(rng.randrange(60)))
    method = rng.choice([b"POST", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"POSTX", b""])
    path = rng.choice(
        [b"/api", b"/api/record/x", b"/api/record/%", b"/", b"*", b"http://h/api", b"/\xff", b"//"]
    )
    lines = [b"%b %b HTTP/1.%d" % (method, path, rng.choice([0, 1, 1, 1, 7]))]
    choices = [
        b"Host: h", b"Content-Type: application/json", b"Content-Length: %d" % len(body),
        b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Content-Encoding: gzip",
        b"Authorization: Basic x", b"Expect: 100-continue",
        b"Connection: close", b"Connection: Upgrade", b"Upgrade: websocket", b"X: \x00",
        b"Content-Length: -1", b"If-None-Match: \"", b"Access-Control-Request-Method: GET", b": x",
        b"Content-Length: 99999999999999999999",
    ]  # fmt: skip
    lines += rng.sample(choices, rng.randrange(6))
    data = b"\r\n".join(lines) + END + body
    if rng.random() < 0.3:
        at = rng.randrange(len(data))
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return data


async def test_no_input_does_harm() -> None:
    rng = random.Random(7)
    async with serve_http() as (s, api):
        for _ in range(400):
            client = await s.connect()
            data = b"".join(pieces(rng) for _ in range(rng.randrange(1, 4)))
            while data:
                size = rng.randrange(1, len(data) + 1)
                client.write(data[:size])
                data = data[size:]
                await asyncio.sleep(0)
            client.writer.write_eof()
            async with asyncio.timeout(20):
                try:
                    answer = await client.reader.read(1 << 20)
                except ConnectionError:
                    answer = b""
            client.writer.close()
            assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
            assert b" 500 " not in answer.partition(b"\r\n")[0]
        assert await Api(await s.connect()).one(EMIT["body"][0]) == {"success": True}
        assert not s.log.errors()
        assert (await api.get("/health-check")).status == 200
