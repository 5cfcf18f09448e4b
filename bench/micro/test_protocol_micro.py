"""What decoding and encoding a message costs: ``pytest bench/micro/test_protocol_micro.py``.

Most of each figure is the Python message object, which the compiled hot path does not make.
"""

from __future__ import annotations

from typing import Any

import pytest

from dsfast._core.protocol import EventAction, Message, RecordAction, RpcAction, Topic, decode, encode

MESSAGES = {
    "emit 64 B": Message(Topic.EVENT, EventAction.EMIT, name="bench", data=b'"' + b"x" * 62 + b'"'),
    "emit 64 KiB": Message(Topic.EVENT, EventAction.EMIT, name="bench", data=b'"' + b"x" * 65_534 + b'"'),
    "patch": Message(
        Topic.RECORD, RecordAction.PATCH, name="bench/record", data=b"1", path="items.a.id", version=7
    ),
    "rpc request": Message(
        Topic.RPC, RpcAction.REQUEST, name="add", correlation_id="mwuqtj3-2blwtc13s7s", data=b'{"a":1}'
    ),
    "1000 names": Message(
        Topic.EVENT, EventAction.SUBSCRIBE, names=[f"bench/{i}" for i in range(1000)], correlation_id="0"
    ),
    "1000 versions": Message(
        Topic.RECORD, RecordAction.HEAD_RESPONSE_BULK, versions={f"bench/{i}": i for i in range(1000)}
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_encode(benchmark: Any, name: str) -> None:
    assert benchmark(encode, MESSAGES[name])


@pytest.mark.parametrize("name", MESSAGES)
def test_decode(benchmark: Any, name: str) -> None:
    assert len(benchmark(decode, encode(MESSAGES[name]))) == 1
