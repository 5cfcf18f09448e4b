"""The examples of docs/json.md do what the document says."""

import asyncio
import json
import os
import re
import shutil
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from wire import TEXT, TIMEOUT, frame, serve

from dsfast._core.protocol import EventAction, PresenceAction, RecordAction, RpcAction

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "json.md").read_text()
ENDPOINTS = [{"type": "ws-binary"}, {"type": "ws-json"}]


def example(kind: str) -> str:
    (text,) = re.findall(rf"^```{kind}\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    return str(text)


async def test_the_session() -> None:
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        client = await s.websocket("/deepstream-json")
        for line in example("session").splitlines():
            if line.startswith(">"):
                client.write(frame(line[2:].encode(), TEXT))
            else:
                opcode, payload = await client.frame()
                assert opcode == TEXT
                assert json.loads(payload) == json.loads(line[2:]), line


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_the_client(tmp_path: Path) -> None:
    program = tmp_path / "client.mjs"
    program.write_text(example("js"))
    (tmp_path / "node_modules").symlink_to(ROOT / "tests" / "js" / "node_modules")
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        url = f"ws://127.0.0.1:{s.port}/deepstream-json"
        process = await asyncio.create_subprocess_exec(
            "node", "--preserve-symlinks", str(program), url,
            stdout=PIPE, stderr=PIPE, env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)
        assert process.returncode == 0, errors.decode()
        assert output.decode() == example("text")


def numbers(text: str) -> set[tuple[int, int]]:
    """Topics and actions like 4.3 in a text."""
    return {(int(topic), int(action)) for topic, action in re.findall(r"\b([1-7])\.(\d+)\b", text)}


def test_the_numbers_are_those_of_the_protocol() -> None:
    kinds: dict[int, Any] = {4: EventAction, 5: RecordAction, 6: RpcAction, 7: PresenceAction}
    found = numbers(DOCUMENT)
    assert len(found) > 50
    for topic, action in found:
        assert action in set(kinds[topic]), (topic, action)
    denied = {(topic, int(actions.MESSAGE_DENIED)) for topic, actions in kinds.items()}
    assert denied == numbers(re.findall(r"refused by a permission \((.*?)\)", DOCUMENT)[0])
