"""The OpenAPI document, and the server against it."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from http_kit import Api, serve_http
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from dsfast._core.jif import scan
from dsfast._core.json_text import dumps, loads
from dsfast._core.protocol import Message, encode
from dsfast.config.schema import HttpEndpointOptions
from dsfast.endpoints.http.jif import JifError, parse
from dsfast.endpoints.http.openapi import document

pytest.importorskip("schemathesis", reason="pip install schemathesis (extra test)")

EXAMPLES = os.environ.get("DSFAST_API_EXAMPLES", "30")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "negative_data_rejection"
)
API = json.loads(document(HttpEndpointOptions()))
# The element that a request may have, for a validator of its own.
ELEMENT = Draft202012Validator({**API["components"]["schemas"]["Request"]["properties"]["body"]["items"],
                                "components": API["components"]})  # fmt: skip

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
words = st.sampled_from(
    ["event", "rpc", "record", "list", "presence", "emit", "make", "read", "head", "write"]
)
more_words = words | st.sampled_from(["delete", "notify", "query", "x", ""])
keys = (
    "eventName",
    "rpcName",
    "recordName",
    "recordNames",
    "listName",
    "data",
    "path",
    "version",
    "names",
    "x",
)
elements = st.fixed_dictionaries(
    {}, optional={"topic": more_words | values, "action": more_words | values} | dict.fromkeys(keys, values)
)


@st.composite
def near_misses(draw: Any) -> Any:
    """Elements that are right, or nearly."""
    kind = draw(st.sampled_from(sorted(set(API["components"]["schemas"]) - {"Request", "Result", "Answer"})))
    schema = API["components"]["schemas"][kind]
    element: dict[str, Any] = {}
    for name, field in schema["properties"].items():
        if name in schema["required"] or draw(st.booleans()):
            right = field.get("enum", [None])[0]
            if name.endswith("Name"):
                right = draw(st.text(max_size=3))
            elif field.get("type") == "array":
                right = draw(st.lists(st.text(max_size=2), max_size=3))
            elif name == "version":
                right = draw(st.integers(-3, 3))
            elif right is None:
                right = draw(values)
            element[name] = draw(st.just(right) | st.just(right) | st.just(right) | values)
    return element


@settings(max_examples=int(EXAMPLES) * 20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(elements | near_misses() | values)
def test_what_the_document_allows_is_what_is_taken(element: Any) -> None:
    element = loads(dumps(element))  # as the body of a request brings it
    try:
        message = parse(element)
    except JifError:
        assert not ELEMENT.is_valid(element)
    else:
        assert ELEMENT.is_valid(element)
        assert encode(message)


@st.composite
def spaced(draw: Any) -> tuple[list[Any], str]:
    """Elements, and a request with them that is JSON with spaces where they may be."""
    batch = draw(st.lists(elements | near_misses() | usual, min_size=1, max_size=4))
    space = draw(st.sampled_from(["", " ", "\n\t \r"]))
    separators = (f"{space},{space}", f"{space}:{space}")
    rest = draw(st.sampled_from([{}, {"token": "t"}, {"authData": {"a": [1, '}"']}}, {"x": ['\\"', {}]}]))
    text = json.dumps({**rest, "body": batch}, separators=separators, ensure_ascii=draw(st.booleans()))
    return batch, space + text.replace("[", "[" + space).replace("{", "{" + space)


usual = st.builds(
    lambda name, data, version: {
        "topic": "record", "action": "write", "recordName": name, "data": data, "version": version,
    },
    st.text(min_size=1, max_size=3), st.dictionaries(st.text(max_size=3), values, max_size=3),
    st.integers(-1, 5),
)  # fmt: skip


def fields(messages: list[Message]) -> list[dict[str, Any]]:
    """What is in messages; of data the value, since the fast way leaves the text as it is."""
    return [{**message.to_dict(), "data": message.payload()} for message in messages]


@settings(max_examples=int(EXAMPLES) * 20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spaced())
def test_the_fast_way_reads_what_the_slow_one_does(request: tuple[list[Any], str]) -> None:
    batch, body = request
    try:
        raw = body.encode()
        found = scan(raw)
    except UnicodeEncodeError:
        return
    if found is None:
        return
    data = loads(raw)  # the spaces may have come into texts
    assert fields(found.messages()) == fields([parse(element) for element in data["body"]])
    assert len(found) == len(batch)
    assert (found.token is None) is ("token" not in data)
    assert (None if found.auth_data is None else loads(found.auth_data)) == data.get("authData")


@pytest.mark.parametrize(
    "element",
    [
        {"topic": "event", "action": "emit", "eventName": "e"},
        {"topic": "event", "action": "emit", "eventName": "é", "data": None},
        {"topic": "rpc", "action": "make", "rpcName": "r", "data": [1, "]"]},
        {"topic": "record", "action": "read", "recordName": "r"},
        {"topic": "record", "action": "head", "recordName": "r"},
        {"topic": "record", "action": "delete", "recordName": "r"},
        {"topic": "record", "action": "write", "recordName": "r", "data": {}, "version": 0},
        {"topic": "record", "action": "write", "recordName": "r", "data": [], "path": ""},
        {
            "topic": "record",
            "action": "write",
            "recordName": "r",
            "data": 1,
            "path": "a",
            "version": 2147483647,
        },
        {"topic": "list", "action": "read", "listName": "l"},
        {"topic": "list", "action": "delete", "listName": "l"},
    ],
)
def test_usual_elements_take_the_fast_way(element: Any) -> None:
    body = json.dumps({"body": [element] * 2}, ensure_ascii=False).encode()
    found = scan(body)
    assert found is not None
    assert fields(found.messages()) == fields([parse(element)] * 2)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"5", b"{", b'{"body":[]}', b'{"body":{}}', b'{"body":[5]}', b'{"body":[{}]}',
        b'{"body":[{"topic":"event","action":"emit","eventName":"\\u0041"}]}',
        b'{"body":[{"topic":"event","action":"emit","eventName":""}]}',
        b'{"body":[{"topic":"event","action":"emit","eventName":"e","eventName":"e"}]}',
        b'{"body":[{"topic":"event","action":"emit","eventName":"e"}],"body":[]}',
        b'{"body":[{"topic":"event","action":"emit","eventName":"e"}],"token":"a","token":"b"}',
        b'{"body":[{"topic":"record","action":"write","recordName":"r","data":{},"version":2147483648}]}',
        b'{"body":[{"topic":"record","action":"write","recordName":"r","data":{},"version":1.0}]}',
        b'{"body":[{"topic":"record","action":"write","recordName":"r","data":5}]}',
        b'{"body":[{"topic":"record","action":"read","recordName":"r","data":{}}]}',
        b'{"body":[{"topic":"list","action":"head","listName":"l"}]}',
        b'{"bod\\u0079":[]}',
    ],
)  # fmt: skip
def test_all_else_takes_the_slow_way(body: bytes) -> None:
    assert scan(body) is None


async def test_the_document() -> None:
    async with serve_http(options={"allowAuthData": False, "enableAuthEndpoint": False}) as (_, api):
        response = await api.get("/api/openapi.json")
        assert response.status == 200
        found = json.loads(response.body)
        assert found["openapi"] == "3.1.0"
        assert set(found["paths"]) == {
            "/api",
            "/api/record/{name}",
            "/api/stream/record/{name}",
            "/api/stream/event/{name}",
        }
        assert found["components"]["schemas"]["Request"]["properties"]["authData"] is False
        for schema in found["components"]["schemas"].values():
            Draft202012Validator.check_schema(schema)


async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    async with serve_http() as (s, _):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"http://127.0.0.1:{s.port}/api/openapi.json",
            "--exclude-path-regex=/stream/",  # those do not end
            f"--checks={CHECKS}",
            f"--max-examples={EXAMPLES}",
            "--seed=1",
            "--no-color",
            "--phases=examples,coverage,fuzzing",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,  # where it keeps what it has found
        )
        async with asyncio.timeout(300):
            out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()[-8000:]
        assert not s.log.errors()
        assert (await Api(await s.connect()).get("/health-check")).status == 200
