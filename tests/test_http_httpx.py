"""A Python client, httpx, and the HTTP API: batches, records with their ETag, compressed bodies, a stream."""

import gzip
import json

import httpx
from http_kit import serve_http

from dsfast._core.protocol import EventAction, Topic


async def test_httpx_uses_the_whole_api() -> None:
    async with serve_http() as (s, _):
        base = f"http://127.0.0.1:{s.port}"
        async with httpx.AsyncClient(base_url=base, timeout=20) as client:
            write = {"topic": "record", "action": "write", "recordName": "town", "data": {"name": "Bern"}}
            read = {"topic": "record", "action": "read", "recordName": "town"}
            answer = (await client.post("/api", json={"body": [write, read]})).json()
            assert answer == {
                "result": "SUCCESS",
                "body": [{"success": True}, {"version": 1, "data": {"name": "Bern"}, "success": True}],
            }
            body = gzip.compress(json.dumps({"body": [read]}).encode())
            headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
            assert (await client.post("/api", content=body, headers=headers)).json()["result"] == "SUCCESS"
            record = await client.get("/api/record/town")
            assert record.json() == {"name": "Bern"}
            again = await client.get("/api/record/town", headers={"If-None-Match": record.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert (await client.get("/api/record/none")).status_code == 404
            assert (await client.head("/health-check")).status_code == 200


async def test_httpx_reads_a_stream_of_events() -> None:
    async with serve_http() as (s, _):
        sender = await s.login("sender")
        base = f"http://127.0.0.1:{s.port}"
        async with (
            httpx.AsyncClient(base_url=base, timeout=20) as client,
            client.stream("GET", "/api/stream/event/news") as stream,
        ):
            assert stream.headers["content-type"].startswith("text/event-stream")
            sender.message(Topic.EVENT, EventAction.EMIT, name="news", data=b'{"n":1}')
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    assert json.loads(line.removeprefix("data:")) == {"n": 1}
                    break
