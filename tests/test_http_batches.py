"""POST /api: what may be sent, and what is answered (http.md sections 2 to 6, 9 and 10)."""

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest
from http_kit import JSON_TYPE, serve_http, text
from wire import Users

from dsfast._core.protocol import EventAction, RecordAction, RpcAction, Topic
from dsfast.plugin import Authentication, AuthResult, Permission, PluginError, Storage

loops = ["asyncio", "uvloop"]

EMIT = {"topic": "event", "action": "emit", "eventName": "e"}
NO_BODY = 'Invalid message: the "body" parameter must exist.'
BAD_AUTH = 'Invalid message: the "authData" parameter must be an object'
BAD_TOKEN = 'Invalid message: the "token" parameter must be a non-empty string'
TOPICS = "property 'topic' must be one of event, rpc, record, list, presence"
BAD_BODY = 'Invalid message: the "body" parameter must be a non-empty array of Objects.'


def record(action: str, name: str = "r", **fields: Any) -> dict[str, Any]:
    return {"topic": "record", "action": action, "recordName": name, **fields}


def rpc(name: str = "add", **fields: Any) -> dict[str, Any]:
    return {"topic": "rpc", "action": "make", "rpcName": name, **fields}


# --- the request as a whole


@pytest.mark.parametrize(
    ("data", "status", "answer"),
    [
        ({}, 400, NO_BODY),
        ([], 400, NO_BODY),
        (b"", 400, NO_BODY),
        ({"body": None}, 400, NO_BODY),
        ({"body": 0}, 400, NO_BODY),
        ({"body": False}, 400, NO_BODY),
        ({"body": ""}, 400, NO_BODY),
        ({"body": []}, 400, BAD_BODY),
        ({"body": {}}, 400, BAD_BODY),
        ({"body": 5}, 400, BAD_BODY),
        ({"body": "x"}, 400, BAD_BODY),
        ({"body": True}, 400, BAD_BODY),
        ({"body": [EMIT], "authData": None}, 400, BAD_AUTH),
        ({"body": [EMIT], "authData": "x"}, 400, BAD_AUTH),
        ({"body": [EMIT], "token": 5}, 400, BAD_TOKEN),
        ({"body": [EMIT], "token": ""}, 400, BAD_TOKEN),
        # The body comes first.
        ({"body": [], "authData": 5}, 400, BAD_BODY),
        (b"nul", 400, "Failed to parse body of request: not a JSON text"),
        (b'{"body":[', 400, "Failed to parse body of request: not a JSON text"),
        (b"null", 400, "Failed to parse body of request: neither a JSON object nor an array"),
        (b"5", 400, "Failed to parse body of request: neither a JSON object nor an array"),
        (b'"x"', 400, "Failed to parse body of request: neither a JSON object nor an array"),
        (b'{"body":["\xff"]}', 400, "Failed to parse body of request: not a JSON text"),
    ],
)  # fmt: skip
async def test_requests_that_make_no_sense(data: Any, status: int, answer: str) -> None:
    async with serve_http() as (_, api):
        response = await api.post(data)
        assert (response.status, text(response)) == (status, answer)
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        # The connection is kept.
        assert await api.one(EMIT) == {"success": True}


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        (5, "it is no object"),
        (None, "it is no object"),
        ([], "it is no object"),
        ({}, "property 'topic' is required"),
        ({"topic": "x", "action": "read"}, TOPICS),
        ({"topic": ["event"], "action": "emit"}, TOPICS),
        ({"topic": "event"}, "property 'action' is required for topic 'event'"),
        ({"topic": "event", "action": "read"}, "property 'action' must be one of emit for topic 'event'"),
        ({"topic": "list", "action": "head", "listName": "l"},
         "property 'action' must be one of read, write, delete for topic 'list'"),
        ({"topic": "event", "action": "emit"}, "property 'eventName' is required for topic 'event'"),
        ({**EMIT, "eventName": ""}, "property 'eventName': expected str of length >= 1"),
        ({**EMIT, "eventName": 5}, "property 'eventName': expected str, got int"),
        ({**EMIT, "x": 1}, "property 'x' is not known for topic 'event', action 'emit'"),
        (record("write"), "property 'data' is required for topic 'record'"),
        (record("write", path="a"), "property 'data' is required for topic 'record'"),
        (record("write", data=5), "property 'data': expected an object or an array, got int"),
        (record("write", data=None), "property 'data': expected an object or an array, got null"),
        (record("write", path=5, data=5), "property 'path': expected str, got int"),
        (record("write", data={}, version=-2), "property 'version': expected int >= -1"),
        (record("write", data={}, version=2**31), "property 'version': expected int <= 2147483647"),
        (record("write", data={}, version="1"), "property 'version': expected int, got str"),
        (record("read", data=1), "property 'data' is not known for topic 'record', action 'read'"),
        (record("read", "\ud800"), "a name or path has half of a surrogate pair"),
        ({"topic": "record", "action": "notify", "recordNames": "r"},
         "property 'recordNames': expected array, got str"),
        ({"topic": "record", "action": "notify", "recordNames": [""]},
         "property 'recordNames[0]': expected str of length >= 1"),
        ({"topic": "list", "action": "write", "listName": "l", "data": ["a", 1]},
         "property 'data[1]': expected str, got int"),
        ({"topic": "list", "action": "write", "listName": "l", "data": {}},
         "property 'data': expected array, got object"),
        ({"topic": "presence", "action": "query", "names": [1]},
         "property 'names[0]': expected str, got int"),
    ],
)  # fmt: skip
async def test_an_element_that_makes_no_sense_keeps_the_others_from_being_executed(
    element: Any, reason: str
) -> None:
    async with serve_http() as (_, api):
        response = await api.post({"body": [record("write", data={}), element]})
        assert response.status == 400
        assert text(response) == f"Failed to parse JIF object at index 1. Reason: {reason}"
        assert await api.one(record("head")) == {"version": -1, "success": True}


async def test_content_types() -> None:
    body = json.dumps({"body": [EMIT]}).encode()
    wrong = 'Invalid "Content-Type" header. Supported media types: "application/json"'
    async with serve_http() as (_, api):
        for kind in (
            "application/json; charset=utf-8",
            "Application/JSON;charset=UTF-8",
            "application/json;x",
        ):
            assert (await api.request("POST", "/api", body, {"Content-Type": kind})).status == 200
        for kind in ("text/plain", "application/jsonx", "application/json-patch+json", ""):
            response = await api.request("POST", "/api", body, {"Content-Type": kind})
            assert (response.status, text(response)) == (415, wrong)
        response = await api.request("POST", "/api", body)
        assert (response.status, text(response)) == (415, wrong)
        response = await api.request(
            "POST", "/api", body, {"Content-Type": "application/json; charset=utf-16"}
        )
        assert response.status == 415


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate),
     ("identity", bytes)],
)  # fmt: skip
async def test_compressed_bodies(encoding: str, pack: Any) -> None:
    body = json.dumps({"body": [EMIT]}).encode()
    async with serve_http() as (_, api):
        response = await api.post(pack(body), Content_Encoding=encoding)
        assert response.status == 200
        if encoding != "identity":
            for broken in (pack(body)[:-1], pack(body) + b"x", b"x" + pack(body), b""):
                assert (await api.post(broken, Content_Encoding=encoding)).status == 400


async def test_a_body_is_as_large_as_it_is_after_decompression() -> None:
    too_large = "Failed to parse body of request: request entity too large"
    async with serve_http(port={"maxMessageSize": 10_000}) as (s, api):
        fits = json.dumps({"body": [{**EMIT, "data": "x" * 9000}]}).encode()
        bomb = gzip.compress(json.dumps({"body": [{**EMIT, "data": "x" * 5_000_000}]}).encode())
        assert len(bomb) < 10_000
        assert (await api.post(gzip.compress(fits), Content_Encoding="gzip")).status == 200
        response = await api.post(bomb, Content_Encoding="gzip")
        assert (response.status, text(response)) == (413, too_large)
        # Without compression it is not even read to its end.
        api.client.write(b"POST /api HTTP/1.1\r\nContent-Length: 10001\r\n\r\n")
        response = await api.client.response()
        assert (response.status, text(response)) == (413, too_large)
        await api.client.ended()
        other = await s.connect()
        other.write(b"POST /api HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        other.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        other.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        other.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        assert (await other.response()).status == 413


async def test_an_unknown_encoding_is_refused() -> None:
    async with serve_http() as (_, api):
        response = await api.post(b"x", Content_Encoding="br")
        assert (response.status, text(response)) == (415, 'Unsupported content encoding "br"')


async def test_chunked_bodies_and_pipelined_requests_in_pieces() -> None:
    body = json.dumps({"body": [record("head")]}).encode()
    one = (
        b"POST /api HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:8], body[8:]))
        + b"0\r\n\r\n"
    )
    async with serve_http() as (_, api):
        stream = one * 3
        for size in (1, 7, len(stream)):
            for at in range(0, len(stream), size):
                api.client.write(stream[at : at + size])
                if size < 8:
                    await asyncio.sleep(0)
            for _ in range(3):
                response = await api.client.response()
                assert json.loads(response.body)["body"] == [{"version": -1, "success": True}]


async def test_a_client_may_wait_for_100_continue() -> None:
    body = json.dumps({"body": [EMIT]}).encode()
    async with serve_http() as (_, api):
        head = (
            f"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        api.client.write(b"POST /api HTTP/1.1\r\n" + head.encode())
        assert (await api.client.reader.readline()) == b"HTTP/1.1 100 Continue\r\n"
        assert (await api.client.reader.readline()) == b"\r\n"
        api.client.write(body)
        assert (await api.client.response()).status == 200


async def test_a_body_that_does_not_come_to_its_end_is_answered_408() -> None:
    async with serve_http() as (s, _):
        s.services.http_service.core.body_timeout = 50
        client = await s.connect()
        client.write(b"POST /api HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345")
        assert (await client.response()).status == 408
        await client.ended()


async def test_a_batch_has_a_bound_and_long_ones_work() -> None:
    async with serve_http(port={"maxMessageSize": 1 << 22}, options={"maxBatchLength": 6000}) as (_, api):
        response = await api.post({"body": [EMIT] * 6001})
        assert response.status == 400
        assert "6000 elements" in text(response)
        answers = await api.batch(*[record("write", f"r{i % 10}", data={"i": i}) for i in range(5000)])
        assert answers == [{"success": True}] * 5000
        assert await api.one(record("read", "r9")) == {"version": 500, "data": {"i": 4999}, "success": True}


async def test_paths_end_where_a_part_ends() -> None:
    async with serve_http() as (_, api):
        for path, status in [
            ("/api", 200),
            ("/api?x=/apifoo", 200),
            ("/api/", 200),
            ("/apifoo", 404),
            ("/ap", 404),
        ]:
            assert (await api.post({"body": [EMIT]}, path)).status == status
        for path, status in [("/health-check", 200), ("/health-check?x", 200), ("/health-checkXYZ", 404)]:
            assert (await api.get(path)).status == status
        response = await api.get("/api")
        assert (response.status, text(response)) == (
            400,
            "Reading records via HTTP GET is not yet implemented, please use a post request instead.",
        )


async def test_answers_to_head_and_other_methods() -> None:
    async with serve_http() as (_, api):
        await api.one(record("write", data={"a": 1}))
        response = await api.request("HEAD", "/api/record/r")
        assert (response.status, response.headers["etag"]) == (200, '"1"')
        assert response.headers["content-length"] == str(len((await api.get("/api/record/r")).body))
        response = await api.request("PUT", "/api", b"{}", JSON_TYPE)
        assert (response.status, text(response)) == (
            405,
            "Unsupported method. Supported methods: GET, POST, OPTIONS",
        )


# --- elements


async def test_every_kind_of_element() -> None:
    async with serve_http() as (s, api):
        a = await s.login("A")
        a.message(Topic.RPC, RpcAction.PROVIDE, names=["add"], correlation_id="1")
        await a.expect(Topic.RPC, RpcAction.PROVIDE)
        a.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
        await a.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        api.send(
            "POST",
            "/api",
            json.dumps(
                {
                    "authData": {"username": "B"},
                    "body": [
                        {**EMIT, "data": {"x": 1}},
                        record("write", data={"a": 1}),
                        record("write", path="b[1].c", data=None),
                        record("read"),
                        record("head"),
                        rpc(data={"a": 1, "b": 2}),
                        {"topic": "list", "action": "write", "listName": "l", "data": ["x", "y"]},
                        {"topic": "list", "action": "read", "listName": "l"},
                        {"topic": "list", "action": "delete", "listName": "l"},
                        record("head", "l"),
                        record("delete"),
                        record("delete", "missing"),
                        {"topic": "record", "action": "notify", "recordNames": ["r", "s"]},
                        {"topic": "record", "action": "notify", "recordNames": []},
                        {"topic": "presence", "action": "query"},
                        {"topic": "presence", "action": "query", "names": ["A", "Z"]},
                        {"topic": "presence", "action": "query", "names": []},
                    ],
                }
            ).encode(),
            JSON_TYPE,
        )
        await a.expect(Topic.EVENT, EventAction.EMIT, name="e", data=b'{"x":1}')
        call = await a.expect(Topic.RPC, RpcAction.REQUEST)
        assert call.payload() == {"a": 1, "b": 2}
        a.message(Topic.RPC, RpcAction.ACCEPT, name="add", correlation_id=call.correlation_id)
        a.message(Topic.RPC, RpcAction.RESPONSE, name="add", correlation_id=call.correlation_id, data=b"3")
        answer = json.loads((await api.client.response()).body)
        ok = {"success": True}
        assert answer == {
            "result": "SUCCESS",
            "body": [
                ok,
                ok,
                ok,
                {"version": 2, "data": {"a": 1, "b": [None, {"c": None}]}, "success": True},
                {"version": 2, "success": True},
                {"data": 3, "success": True},
                ok,
                {"version": 1, "data": ["x", "y"], "success": True},
                ok,
                {"version": -1, "success": True},
                ok,
                ok,
                ok,
                ok,
                {"users": ["A"], "success": True},
                {"users": {"A": True, "Z": False}, "success": True},
                {"users": {}, "success": True},
            ],
        }


async def test_the_examples_of_the_specification_with_curl() -> None:
    async with serve_http() as (s, _):
        base = f"http://127.0.0.1:{s.port}"

        async def curl(*arguments: str) -> str:
            process = await asyncio.create_subprocess_exec(
                "curl", "-s", "-i", "-m", "20", *arguments, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
            return out.decode()

        kind = ["-H", "content-type: application/json"]
        assert (await curl(f"{base}/health-check")).startswith("HTTP/1.1 200 OK")
        answer = await curl("-X", "POST", *kind, f"{base}/api", "-d", "{}")
        assert answer.startswith("HTTP/1.1 400")
        assert NO_BODY in answer
        element = '{"body":[{"topic":"record","action":"head","recordName":"x"}]}'
        answer = await curl("-X", "POST", *kind, f"{base}/api", "-d", element)
        assert answer.endswith('{"result":"SUCCESS","body":[{"version":-1,"success":true}]}\r\n\r\n')
        preflight = [
            "-H",
            "Access-Control-Request-Method: POST",
            "-H",
            "Access-Control-Request-Headers: content-type",
        ]
        assert (await curl("-X", "OPTIONS", f"{base}/api", *preflight)).startswith("HTTP/1.1 204 No Content")


async def test_versions() -> None:
    async with serve_http() as (_, api):
        assert await api.one(record("write", data={"n": 1}, version=1)) == {"success": True}
        assert await api.one(record("write", data={"n": 2}, version=2.0)) == {"success": True}
        assert await api.one(record("write", path="n", data=3, version=0)) == {"success": True}
        assert await api.one(record("write", path="", data={"n": 4}, version=-1)) == {"success": True}
        assert await api.one(record("write", data={"n": 5}, version=3)) == {
            "errorTopic": "record",
            "errorEvent": 102,
            "success": False,
            "error": 'Record update failed. Version 4 exists for record "r".',
            "currentVersion": 4,
            "currentData": {"n": 4},
        }
        assert await api.one(record("write", path="n", data=5, version=9)) == {
            "errorTopic": "record",
            "errorEvent": 108,
            "success": False,
            "error": 'Record update failed. Version 9 is not valid for record "r".',
            "currentVersion": 4,
            "currentData": {"n": 4},
        }


async def test_errors_by_number_and_by_name() -> None:
    elements = [record("read", "nope"), rpc("nobody"), record("write", path="a[", data=1)]
    for names, events in (
        (False, [107, 100, 116]),
        (True, ["RECORD_NOT_FOUND", "NO_RPC_PROVIDER", "INVALID_MESSAGE_DATA"]),
    ):
        async with serve_http(options={"errorNames": names}) as (_, api):
            response = await api.post({"body": elements})
            assert json.loads(response.body) == {
                "result": "FAILURE",
                "body": [
                    {"errorTopic": "record", "errorEvent": events[0], "success": False,
                     "error": 'Record read failed. Record "nope" could not be found.'},
                    {"errorTopic": "rpc", "errorEvent": events[1], "success": False,
                     "error": 'No provider was available to handle the RPC "nobody".'},
                    {"errorTopic": "record", "errorEvent": events[2], "success": False,
                     "error": "An error occurred: INVALID_MESSAGE_DATA.", "errorParams": "r"},
                ],
            }  # fmt: skip


async def test_calls_that_fail() -> None:
    rpcs = {"rpc": {"ackTimeout": 50, "responseTimeout": 100}}
    async with serve_http(rpcs) as (s, api):
        provider = await s.login("P")
        names = ["error", "silent", "slow", "reject", "nothing"]
        provider.message(Topic.RPC, RpcAction.PROVIDE, names=names, correlation_id="1")
        await provider.expect(Topic.RPC, RpcAction.PROVIDE)
        api.send("POST", "/api", json.dumps({"body": [rpc(name) for name in names]}).encode(), JSON_TYPE)
        for name in names:
            call = await provider.expect(Topic.RPC, RpcAction.REQUEST)
            fields = {"name": name, "correlation_id": call.correlation_id}
            if name == "error":
                provider.message(Topic.RPC, RpcAction.REQUEST_ERROR, data=b'{"my":"error"}', **fields)
            elif name == "slow":
                provider.message(Topic.RPC, RpcAction.ACCEPT, **fields)
            elif name == "reject":
                provider.message(Topic.RPC, RpcAction.REJECT, **fields)
            elif name == "nothing":
                provider.message(Topic.RPC, RpcAction.RESPONSE, **fields)
        answer = json.loads((await api.client.response()).body)
        assert answer == {
            "result": "PARTIAL_SUCCESS",
            "body": [
                {"errorTopic": "rpc", "error": {"my": "error"}, "success": False},
                {"errorTopic": "rpc", "errorEvent": 101, "success": False,
                 "error": "An error occurred: ACCEPT_TIMEOUT.", "errorParams": "silent"},
                {"errorTopic": "rpc", "errorEvent": 104, "success": False,
                 "error": "The RPC response timeout was exceeded by the provider."},
                {"errorTopic": "rpc", "errorEvent": 100, "success": False,
                 "error": 'No provider was available to handle the RPC "reject".'},
                {"success": True},
            ],
        }  # fmt: skip


async def test_what_is_not_answered_in_time() -> None:
    async with serve_http(options={"requestTimeout": 50}) as (s, api):
        provider = await s.login("P")
        provider.message(Topic.RPC, RpcAction.PROVIDE, names=["add"], correlation_id="1")
        await provider.expect(Topic.RPC, RpcAction.PROVIDE)
        answer = json.loads((await api.post({"body": [EMIT, rpc(), EMIT]})).body)
        late = {
            "success": False,
            "error": "Request exceeded timeout before a response was received.",
            "errorTopic": "connection",
            "errorEvent": "HTTP_REQUEST_TIMEOUT",
        }
        assert answer == {"result": "PARTIAL_SUCCESS", "body": [{"success": True}, late, {"success": True}]}
        assert s.log.find("HTTP_REQUEST_TIMEOUT") == ["HTTP Request timeout"]
        call = await provider.expect(Topic.RPC, RpcAction.REQUEST)
        provider.message(
            Topic.RPC, RpcAction.RESPONSE, name="add", correlation_id=call.correlation_id, data=b"1"
        )
        await provider.fence()
        assert await api.one(EMIT) == {"success": True}  # the late answer is not that of the next request


async def test_a_client_that_leaves_takes_its_calls_with_it_and_its_writes_stay() -> None:
    async with serve_http() as (s, api):
        provider = await s.login("P")
        provider.message(Topic.RPC, RpcAction.PROVIDE, names=["add"], correlation_id="1")
        await provider.expect(Topic.RPC, RpcAction.PROVIDE)
        client = await s.connect()
        body = json.dumps({"body": [record("write", data={"a": 1}), rpc()]}).encode()
        client.write(
            b"POST /api HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        call = await provider.expect(Topic.RPC, RpcAction.REQUEST)
        client.reset()
        await s.until(lambda: len(s.endpoint.core.connections) == 2)
        provider.message(
            Topic.RPC, RpcAction.RESPONSE, name="add", correlation_id=call.correlation_id, data=b"1"
        )
        await provider.fence()
        assert (await api.one(record("read")))["version"] == 1
        assert not s.log.errors()


async def test_disabled_topics_are_told() -> None:
    features = {"enabledFeatures": {"rpc": False, "presence": False, "event": False}}
    async with serve_http(features) as (_, api):
        for element, topic in [
            (rpc(), "rpc"),
            ({"topic": "presence", "action": "query"}, "presence"),
            (EMIT, "event"),
        ]:
            assert await api.one(element) == {
                "success": False,
                "error": f'The topic "{topic}" is disabled on this server.',
                "errorTopic": topic,
                "errorEvent": "UNKNOWN_TOPIC",
            }
        assert (await api.get("/api/stream/event/e")).status == 404


async def test_interop_with_websockets() -> None:
    async with serve_http() as (s, api):
        a = await s.login("A")
        a.message(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="1")
        await a.expect(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD)
        await a.expect(Topic.RECORD, RecordAction.READ_RESPONSE, name="r", version=0, data=b"{}")
        await api.one(record("write", path="x", data=[1.5, "é"]))
        update = await a.expect(Topic.RECORD, RecordAction.PATCH)
        assert (update.path, update.version, update.payload()) == ("x", 1, [1.5, "é"])
        a.message(Topic.RECORD, RecordAction.UPDATE, name="r", version=2, data=b'{"by":"ws"}')
        await a.fence()
        assert await api.one(record("read")) == {"version": 2, "data": {"by": "ws"}, "success": True}
        # Requests are nobody who is present.
        assert await api.one({"topic": "presence", "action": "query"}, authData={"username": "B"}) == {
            "users": ["A"],
            "success": True,
        }


# --- permissions and what waits


class Rules(Permission):
    """Names with "no" are denied, with "broken" fail, with "wait" are decided when the test says so."""

    description = "rules"

    def init(self) -> None:
        self.go = asyncio.Event()
        self.asked = asyncio.Event()
        self.seen: list[tuple[str | None, Any, str]] = []

    def can_perform_action(self, socket: Any, message: Any) -> Any:
        self.seen.append((socket.user_id, socket.server_data, socket.socket_type))
        name = message.name or ""
        if "broken" in name:
            raise PluginError("on purpose")
        return self.later(name) if "wait" in name else "no" not in name

    async def later(self, name: str) -> bool:
        self.asked.set()
        await self.go.wait()
        return "no" not in name


async def test_denials() -> None:
    async with serve_http(permission=Rules, authentication=Users) as (s, api):
        login = {"username": "B", "serverData": {"role": "x"}}
        names = ["no", "broken"]
        answers = await api.batch(
            *[{**EMIT, "eventName": name} for name in names],
            *[record("read", name) for name in names],
            record("write", "no", data={}),
            record("write", "no", path="a", data=1),
            record("delete", "no"),
            {"topic": "record", "action": "notify", "recordNames": ["yes", "no"]},
            rpc("no"),
            {"topic": "presence", "action": "query", "names": ["no", "yes"]},
            authData=login,
        )
        denied = {
            "success": False,
            "error": "Message denied. Action 'emit' is not permitted.",
            "errorEvent": "MESSAGE_DENIED",
            "errorAction": "emit",
            "errorTopic": "event",
        }

        def refused(topic: str, event: int, action: int, name: str) -> dict[str, Any]:
            text = f'Message denied. Action "{name}" is not permitted.'
            return {
                "errorTopic": topic,
                "errorEvent": event,
                "success": False,
                "error": text,
                "action": action,
            }

        assert answers == [
            denied,
            denied,
            refused("record", 115, 3, "READ"),
            {"errorTopic": "record", "errorEvent": 114, "success": False,
             "error": "An error occurred: MESSAGE_PERMISSION_ERROR.", "errorParams": "broken"},
            refused("record", 115, 16, "CREATEANDUPDATE"),
            refused("record", 115, 17, "CREATEANDPATCH"),
            refused("record", 115, 9, "DELETE"),
            refused("record", 115, 2, "NOTIFY"),
            refused("rpc", 107, 2, "REQUEST"),
            refused("presence", 102, 4, "QUERY"),
        ]  # fmt: skip
        assert set(map(str, s.services.permission.seen)) == {str(("B", {"role": "x"}, "http"))}
        response = await api.get("/api/record/no", Authorization="Basic Qjp4")
        assert (response.status, text(response)) == (403, 'Message denied. Action "READ" is not permitted.')


async def test_a_rule_that_takes_its_time_keeps_only_its_element_waiting() -> None:
    async with serve_http(permission=Rules) as (s, api):
        listener = await s.login("L")
        listener.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e", "wait"], correlation_id="1")
        await s.services.permission.asked.wait()
        s.services.permission.go.set()
        await listener.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        s.services.permission.go.clear()
        s.services.permission.asked.clear()
        elements = [
            {**EMIT, "eventName": "wait", "data": 1},
            {**EMIT, "data": 2},
            {**EMIT, "eventName": "wait no"},
        ]
        api.send("POST", "/api", json.dumps({"body": elements}).encode(), JSON_TYPE)
        assert (await listener.expect(Topic.EVENT, EventAction.EMIT)).data == b"2"
        s.services.permission.go.set()
        assert (await listener.expect(Topic.EVENT, EventAction.EMIT)).data == b"1"
        answer = json.loads((await api.client.response()).body)
        assert answer["result"] == "PARTIAL_SUCCESS"
        assert [element["success"] for element in answer["body"]] == [True, True, False]


async def test_a_conflict_does_not_show_what_may_not_be_read() -> None:
    class WriteOnly(Permission):
        description = "write only"

        def can_perform_action(self, socket: Any, message: Any) -> bool:
            return message.action != RecordAction.READ

    async with serve_http(permission=WriteOnly) as (_, api):
        await api.one(record("write", data={"secret": 1}))
        for version in (1, 9):
            answer = await api.one(record("write", data={}, version=version))
            assert answer["currentVersion"] == 1
            assert "currentData" not in answer


class SlowStorage(Storage):
    """Knows nothing, and says so when the test wants."""

    async def get(self, name: str) -> tuple[int, Any]:
        await self.options["go"].wait()
        return -1, None

    async def set(self, name: str, version: int, data: Any) -> None:
        pass

    async def delete(self, name: str) -> None:
        pass


async def test_the_answer_waits_for_the_slowest_element_and_keeps_the_order() -> None:
    go = asyncio.Event()
    section = {"storage": {"class": SlowStorage, "options": {"go": go}}}
    async with serve_http(section) as (s, api):
        listener = await s.login("L")
        listener.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
        await listener.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        elements = [record("write", data={"a": 1}), record("read"), EMIT, record("delete"), record("head")]
        api.send("POST", "/api", json.dumps({"body": elements}).encode(), JSON_TYPE)
        api.send("GET", "/health-check")
        await listener.expect(Topic.EVENT, EventAction.EMIT)
        go.set()
        assert json.loads((await api.client.response()).body) == {
            "result": "SUCCESS",
            "body": [
                {"success": True},
                {"version": 1, "data": {"a": 1}, "success": True},
                {"success": True},
                {"success": True},
                {"version": -1, "success": True},
            ],
        }
        assert (await api.client.response()).status == 200


# --- logins


class Tokens(Authentication):
    """Gives tokens for passwords, and lets tokens in."""

    description = "tokens"

    def init(self) -> None:
        self.seen: list[Any] = []
        self.gone: list[str] = []

    async def is_valid_user(self, connection_data: Any, auth_data: Any) -> AuthResult | None:
        self.seen.append((connection_data, auth_data))
        if auth_data.get("token") == "T-peter":
            return AuthResult(True, id="peter")
        if auth_data.get("password") == "secret":
            return AuthResult(True, id=auth_data["username"], client_data={"hello": 1}, token="T-peter")
        if "why" in auth_data:
            return AuthResult(False, client_data=auth_data["why"])
        return None

    def on_client_disconnect(self, user_id: str) -> None:
        self.gone.append(user_id)


async def test_logins_and_tokens() -> None:
    async with serve_http(authentication=Tokens) as (s, api):
        response = await api.post({"username": "peter", "password": "secret"}, "/api/auth?x=1", X_Test="1")
        assert (response.status, json.loads(response.body)) == (
            200,
            {"token": "T-peter", "clientData": {"hello": 1}},
        )
        connection_data, auth_data = s.services.authentication.entries[0].seen[0]
        assert auth_data == {"username": "peter", "password": "secret"}
        assert connection_data["url"] == "/api/auth?x=1"
        assert connection_data["remoteAddress"] == "127.0.0.1"
        assert connection_data["headers"]["x-test"] == "1"
        for data, answer in [
            ({}, "Invalid authentication data."),
            (b"", "Invalid authentication data."),
            ([1], "Invalid authentication data."),
            ({"why": "because"}, "because"),
            ({"why": {"error": "so"}}, "so"),
            ({"why": 5}, "Invalid authentication data."),
        ]:
            response = await api.post(data, "/api/auth")
            assert (response.status, text(response)) == (401, answer)
        element = {"topic": "presence", "action": "query"}
        assert (await api.post({"body": [element], "token": "T-peter"})).status == 200
        for login in (
            {},
            {"token": "x"},
            {"authData": {}},
            {"authData": []},
            {"token": "T-peter", "authData": {}},
        ):
            response = await api.post({"body": [element], **login})
            assert (response.status, text(response)) == (401, "Unsuccessful authentication attempt.")
        # The login comes before the elements.
        assert (await api.post({"body": [5]})).status == 401
        assert (await api.post({"body": [5], "token": "T-peter"})).status == 400
        assert s.services.authentication.entries[0].gone == []
        await api.one(record("write", data={}), token="T-peter")
        for headers, status in [
            ({"Authorization": "Bearer T-peter"}, 200),
            ({"Authorization": "bearer  T-peter "}, 200),
            ({"Authorization": "Basic cGV0ZXI6c2VjcmV0"}, 200),
            ({"Authorization": "Basic cGV0ZXI6d3Jvbmc="}, 401),
            ({"Authorization": "Basic !"}, 401),
            ({"Authorization": "Bearer"}, 401),
            ({"Authorization": "Digest x"}, 401),
            ({}, 401),
        ]:
            assert (await api.request("GET", "/api/record/r", None, headers)).status == status


async def test_login_data_may_be_disabled_and_the_login_endpoint_too() -> None:
    options = {"allowAuthData": False, "enableAuthEndpoint": False}
    async with serve_http(authentication=Tokens, options=options) as (_, api):
        answer = "Authentication using authData is disabled. Try using a token instead."
        for given in ({}, None):
            response = await api.post({"body": [EMIT], "authData": given})
            assert (response.status, text(response)) == (400, answer)
        assert await api.one(EMIT, token="T-peter") == {"success": True}
        # /api is its prefix.
        assert text(await api.post({"username": "peter"}, "/api/auth")) == NO_BODY
        assert (await api.get("/api/record/r", Authorization="Basic cGV0ZXI6c2VjcmV0")).status == 401


async def test_failed_logins_are_limited_by_address_and_logged_only_if_wanted() -> None:
    from dsfast.services.authentication.combiner import TOO_MANY_FAILED  # noqa: PLC0415

    for logged in (False, True):
        config = {
            "login": {"maxFailedLogins": 2, "failedLoginWindow": 3_600_000},
            "auth": {"type": "file", "options": {"users": {"peter": {"password": "secret"}}}},
        }
        port = {"trustedProxies": ["127.0.0.1"]}
        async with serve_http(config, port=port, options={"logInvalidAuthData": logged}) as (s, api):
            wrong = {"body": [EMIT], "authData": {"username": "peter", "password": "a guess"}}
            for _ in range(2):
                assert (await api.post(wrong, X_Forwarded_For="203.0.113.5")).status == 401
            right = {"body": [EMIT], "authData": {"username": "peter", "password": "secret"}}
            response = await api.post(right, X_Forwarded_For="203.0.113.5")
            assert (response.status, text(response)) == (401, TOO_MANY_FAILED)
            assert (await api.post(right, X_Forwarded_For="203.0.113.6")).status == 200
            for name in ("constructor", "__proto__", {"a": 1}, ["x"]):
                odd = {"body": [EMIT], "authData": {"username": name, "password": "x"}}
                assert (await api.post(odd)).status == 401
            assert any("a guess" in line for line in s.log.find("AUTH_UNSUCCESSFUL")) is logged
            assert not s.log.errors()


# --- records by GET


async def test_a_record_by_get() -> None:
    async with serve_http() as (_, api):
        name = "a/b ü%"
        await api.one(record("write", name, data={"x": [1.5, None]}))
        path = "/api/record/a/b%20%C3%BC%25"
        response = await api.get(path + "?x=1")
        assert (response.status, response.body) == (200, b'{"x":[1.5,null]}\r\n\r\n')
        assert response.headers["etag"] == '"1"'
        for condition in ('"1"', 'W/"1"', '"0", "1"', "*"):
            response = await api.get(path, If_None_Match=condition)
            assert (response.status, response.headers["etag"]) == (304, '"1"')
        assert (await api.get(path, If_None_Match='"2"')).status == 200
        response = await api.get("/api/record/nope")
        assert (response.status, text(response)) == (
            404,
            'Record read failed. Record "nope" could not be found.',
        )
        assert (await api.get("/api/record/")).status == 404
        assert (await api.get("/api/record")).status == 404
        assert (await api.get("/api/record/%ff")).status == 400
        assert (await api.get(path)).status == 200


async def test_a_record_by_get_that_does_not_come_in_time() -> None:
    section = {"storage": {"class": SlowStorage, "options": {"go": asyncio.Event()}}}
    async with serve_http(section, options={"requestTimeout": 50}) as (s, api):
        assert (await api.get("/api/record/r")).status == 504
        s.services.storage.options["go"].set()
        assert (await api.get("/api/record/r")).status == 404
