"""The HTTP API against that of the reference server: same request, same answer.

Runs with ``DSFAST_ORACLE=1`` after ``npm ci`` in ``tests/js/oracle``. What differs on purpose says why, and
has to differ.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORACLE = ROOT / "tests" / "js" / "oracle"
LIMIT = 30.0

pytestmark = [
    pytest.mark.skipif(os.environ.get("DSFAST_ORACLE") != "1", reason="set DSFAST_ORACLE=1"),
    pytest.mark.skipif(not (ORACLE / "node_modules").is_dir(), reason="run 'npm ci' in tests/js/oracle"),
]

EMIT = {"topic": "event", "action": "emit", "eventName": "e"}
PRESENCE = {"topic": "presence", "action": "query"}
PREFLIGHT = "Access-Control-Request-"


def record(action: str, name: str = "r", **fields: Any) -> dict[str, Any]:
    return {"topic": "record", "action": action, "recordName": name, **fields}


def the_list(action: str, **fields: Any) -> dict[str, Any]:
    return {"topic": "list", "action": action, "listName": "l", **fields}


def rpc(name: str) -> dict[str, Any]:
    return {"topic": "rpc", "action": "make", "rpcName": name}


def notify(name: str) -> dict[str, Any]:
    return {"topic": "record", "action": "notify", "recordNames": [name]}


Case = tuple[str, str, Any, dict[str, str] | None, str | None]


def post(data: Any, path: str = "/api", why: str | None = None, **headers: str) -> Case:
    return "POST", path, data, {"Content-Type": "application/json", **headers}, why


def batch(*elements: Any, why: str | None = None, **login: Any) -> Case:
    return post({"body": list(elements), **login}, why=why)


def other(method: str, path: str, **headers: str) -> Case:
    return method, path, None, {name.replace("_", "-"): value for name, value in headers.items()}, None


NAMED_VERSION = "the text names the version that was asked for"
REASON = "the reason is the real one"
PARSER = "another parser, another text"
HANDLERS_TEXT = "what the authentication says about a refusal is told"

# In this order: they build on each other.
CASES: list[Case] = [
    batch(EMIT),
    batch({**EMIT, "eventName": "forbidden"}),
    batch({**EMIT, "eventName": "broken"}),
    batch(record("write", data={"a": 1})),
    batch(record("read")),
    batch(record("head")),
    batch(record("head", "none")),
    batch(record("read", "none")),
    batch(record("write", path="b.c", data=None)),
    batch(record("read")),
    batch(record("write", data={"a": 2}, version=2)),
    batch(record("write", data={"a": 2}, version=3)),
    batch(record("write", data={"a": 2}, version=9), why=NAMED_VERSION),
    batch(record("write", "forbidden", data={})),
    batch(record("write", "forbidden", path="a", data=1)),
    batch(record("read", "forbidden")),
    batch(record("head", "forbidden")),
    batch(record("delete", "forbidden")),
    batch(record("read", "broken"), why="the action has its name"),
    batch(notify("r")),
    batch(notify("forbidden")),
    batch(the_list("write", data=["a"])),
    batch(the_list("read")),
    batch(the_list("delete")),
    batch(record("delete")),
    batch(record("delete", "none")),
    batch(rpc("nobody")),
    batch(rpc("forbidden")),
    batch(PRESENCE),
    batch({**PRESENCE, "names": ["A"]}),
    batch({**PRESENCE, "names": []}),
    batch(EMIT, record("read", "none")),
    post({}),
    post({"body": []}),
    post({"body": 5}),
    post({"body": 0}),
    batch(EMIT, authData=None),
    batch(EMIT, authData="x"),
    batch(EMIT, authData=[]),
    batch(EMIT, token=5),
    batch(EMIT, token=""),
    batch(EMIT, authData={"password": "wrong"}),
    batch(EMIT, authData={"unknown": 1}),
    batch(EMIT, authData={"refuse": "because"}, why=HANDLERS_TEXT),
    batch(5, why=REASON),
    batch({"topic": "x"}, why=REASON),
    post({"username": "A"}, "/api/auth"),
    post({"username": "A", "clientData": {"x": 1}}, "/api/auth"),
    post({"password": "wrong"}, "/api/auth"),
    post({"refuse": "because"}, "/api/auth", why=HANDLERS_TEXT),
    post(b"nul", why=PARSER),
    post(b"5", why=PARSER),
    post({"body": [EMIT]}, "/nothing"),
    ("POST", "/api", {"body": [EMIT]}, {"Content-Type": "text/plain"}, None),
    other("GET", "/api"),
    other("GET", "/health-check"),
    other("GET", "/nothing"),
    other("PUT", "/api"),
    other("DELETE", "/api"),
    other("OPTIONS", "/api"),
    other("OPTIONS", "/api", **{PREFLIGHT + "Method": "PUT"}),
    other("OPTIONS", "/api", **{PREFLIGHT + "Method": "POST", PREFLIGHT + "Headers": "x-foo"}),
    other("OPTIONS", "/api", **{PREFLIGHT + "Method": "POST", PREFLIGHT + "Headers": "Content-Type, accept"}),
    ("OPTIONS", "/api", None, {PREFLIGHT + "Method": "POST"}, "browsers leave out the other header"),
]


@contextmanager
def served(*command: str) -> Iterator[int]:
    """A server process; its port."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=environment(), text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["port"]
    finally:
        process.terminate()
        process.wait(LIMIT)


def environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def ask(port: int, method: str, path: str, data: Any, headers: dict[str, str] | None) -> tuple[int, Any]:
    """Status and body of an answer; parsed if it is JSON."""
    body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    url = f"http://127.0.0.1:{port}{path}"
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def test_every_case() -> None:
    with (
        served("node", str(ORACLE / "server.mjs")) as reference,
        served(sys.executable, str(ROOT / "tests" / "js_server.py")) as port,
    ):
        for *request, why in CASES:
            theirs, ours = ask(reference, *request), ask(port, *request)
            assert (theirs != ours) is (why is not None), (request, theirs, ours)
