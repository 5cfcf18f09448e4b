"""Whoever runs deepstream.io today starts dsfast with the same files (tests/deployments)."""

import json
import signal
from pathlib import Path

import pytest

from dsfast import Server
from dsfast._core.protocol import AuthAction, EventAction, RecordAction, Topic
from dsfast.config import load_from
from dsfast.config.pending import IGNORED
from tests.wire import ACCEPT, CHALLENGE, Client, auth_request

DEPLOYMENTS = Path(__file__).parent / "deployments"
ENVIRONMENT = {"LOG_LEVEL": "INFO", "HOST": "127.0.0.1", "PORT": "0"}
LOCAL = {"httpServer": {"options": {"host": "127.0.0.1", "port": 0}}}


@pytest.fixture
async def deploy():
    """Starts a server from one of the files; returns its port and the server."""
    servers = []

    async def deploy(name, **flags):
        config = load_from(DEPLOYMENTS / name, environ=ENVIRONMENT, flags={**LOCAL, **flags})
        server = Server(config)
        servers.append(server)
        await server.start()
        return server.get_services().http_service.addresses[0][1], server

    yield deploy
    for server in servers:
        await server.stop()


async def login(port, name, password, **changes):
    client = await Client.websocket(port, **changes)
    client.send(CHALLENGE)
    assert await client.payload() == ACCEPT
    client.send(auth_request(json.dumps({"username": name, "password": password}).encode()))
    return client, await client.receive()


async def write(client, name):
    """Whether the client may write a record."""
    client.message(
        Topic.RECORD, RecordAction.CREATEANDUPDATE, name=name, version=1, data=b"{}",
        is_write_ack=True, correlation_id="1",
    )  # fmt: skip
    return (await client.receive()).action == RecordAction.WRITE_ACKNOWLEDGEMENT


async def emit(client, name):
    """Whether the client may emit an event."""
    client.message(Topic.EVENT, EventAction.EMIT, name=name)
    client.message(Topic.EVENT, EventAction.UNSUBSCRIBE, name="nobody subscribed to this")
    answer = await client.receive()
    if answer.action == EventAction.MESSAGE_DENIED:
        await client.receive()
    return answer.action != EventAction.MESSAGE_DENIED


async def test_a_file_with_every_key(deploy, capfd, tmp_path):
    snapshots = {"options": {"outputDir": str(tmp_path)}}
    port, server = await deploy("everything/config.yml", plugins={"heap-snapshot": snapshots})
    config, services = server.get_config(), server.get_services()
    assert len(config.server_name) == 16
    assert config.rpc.provide_requestor_data is True
    assert config.record.storage_exclusion_prefixes == ["no-storage/", "temporary#1/"]
    assert config.record.storage_hot_path_prefixes == []
    assert services.storage_writer is None
    assert type(services.connection_endpoints[0]).__name__ == "WebSocketEndpoint"

    client, answer = await login(port, "userA", "password", Origin="https://app.example.org")
    assert answer.action == AuthAction.AUTH_SUCCESSFUL
    assert json.loads(answer.data) == {"favouriteColor": "red"}
    assert await write(client, "anything")
    assert not await write(client, "user/userB")
    assert services.plugins["visitors"].users == ["userA"]
    await client.close()
    # reportInvalidParameters: the open login behind the users is not reached.
    client, answer = await login(port, "userA", "wrong", Origin="http://localhost:3000")
    assert answer.action == AuthAction.AUTH_UNSUCCESSFUL
    await client.close()

    written = capfd.readouterr()
    assert "=====================   starting   =====================" in written.out
    assert f"configuration file loaded from {DEPLOYMENTS}/everything/config.yml" in written.out
    assert f"Loaded content from {DEPLOYMENTS}/everything/users.yml for fileLoad(users.yml)" in written.out
    assert "visitors ready: visitors" in written.out
    assert f"heap-snapshot ready: heap snapshots in {tmp_path}" in written.out
    expected = {
        "/connectionEndpoints/*/http": "/connectionEndpoints/1: {text} ({file}, line 61)",
    }
    assert [line for line in written.err.splitlines() if line.startswith("INVALID_CONFIG_DATA")] == [
        "INVALID_CONFIG_DATA | " + line.format(text=IGNORED[path], file=DEPLOYMENTS / "everything/config.yml")
        for path, line in expected.items()
        if path in IGNORED
    ]


async def test_a_mapping_for_auth_does_not_open_the_server(deploy):
    port, _ = await deploy("tutorial/config.yml", storage={"type": "none"})
    for name, password in (("chris", "wrong"), ("eve", ""), ("mallory", "sesame")):
        client, answer = await login(port, name, password)
        assert answer.action == AuthAction.AUTH_UNSUCCESSFUL
        await client.close()
    chris, answer = await login(port, "chris", "sesame")
    assert answer.action == AuthAction.AUTH_SUCCESSFUL
    assert await write(chris, "a")
    assert await emit(chris, "news/1")
    assert not await emit(chris, "rumours/1")
    eve, answer = await login(port, "eve", "x")
    assert answer.action == AuthAction.AUTH_SUCCESSFUL
    assert not await write(eve, "a")
    assert not await emit(eve, "news/1")
    await chris.close()
    await eve.close()


async def test_a_json_file_with_a_webhook_that_is_down_lets_nobody_in(deploy, capfd):
    port, server = await deploy("webhook/config.json")
    assert server.get_config().server_name == "node-1"
    client, answer = await login(port, "a", "b")
    assert answer.action == AuthAction.AUTH_UNSUCCESSFUL
    await client.close()
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {"level": 40, "event": "INVALID_CONFIG_DATA"}.items() <= lines[0].items()
    assert [line["event"] for line in lines[1:]] == ["AUTH_ERROR"]


SHIPPED = Path(__file__).parent / "js/oracle/node_modules/@deepstream/server/conf/config.yml"


@pytest.mark.skipif(not SHIPPED.exists(), reason="the npm package @deepstream/server is not installed")
async def test_the_file_that_deepstream_ships(deploy):
    port, server = await deploy(SHIPPED, storage={"type": "none"})
    assert [note.event for note in server.get_config().source.notes] == ["CONFIG_TRANSFORM"]
    client, answer = await login(port, "a", "b")
    assert answer.action == AuthAction.AUTH_SUCCESSFUL
    assert await write(client, "anything")
    await client.close()


async def test_the_command_starts_with_the_file(start, tmp_path):
    path = DEPLOYMENTS / "tutorial" / "config.yml"
    options = ("--port", "0", "--host", "127.0.0.1", "--data-dir", tmp_path)
    server = start("serve", "-c", path, *options).ready()
    assert "auth: File Authentication; permission: Valve Permissions" in server.active
    client, answer = await login(server.port, "chris", "wrong")
    assert answer.action == AuthAction.AUTH_UNSUCCESSFUL
    await client.close()
    assert server.end(signal.SIGTERM)[0] == 0
