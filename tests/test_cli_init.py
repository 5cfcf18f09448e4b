"""`dsfast init`: what it writes is right, starts, and lets the one user in."""

import json
import re
import signal
import stat

import pytest

from dsfast._core.protocol import AuthAction, RecordAction, Topic
from dsfast.config import load_from
from tests.commands import run
from tests.wire import ACCEPT, CHALLENGE, Client, auth_request

FILES = ["config.yml", "permissions.yml", "users.yml"]


@pytest.fixture
def made(tmp_path):
    """A directory that the command has filled, and the password that it told."""
    done = run("init", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    password = re.search(r"^password: (\S+)$", done.stdout, re.MULTILINE)[1]
    return tmp_path, password


async def login(port, name, password):
    """A client that has asked to log in; the action of the answer."""
    client = await Client.websocket(port)
    client.send(CHALLENGE)
    assert await client.payload() == ACCEPT
    client.send(auth_request(json.dumps({"username": name, "password": password}).encode()))
    return client, AuthAction((await client.receive()).action)


def test_the_files_are_readable_for_their_owner_only(made):
    directory, _ = made
    assert sorted(path.name for path in (directory / "conf").iterdir()) == FILES
    for name in FILES:
        assert stat.S_IMODE((directory / "conf" / name).stat().st_mode) == 0o600


def test_the_files_are_without_fault(made):
    directory, password = made
    done = run("check", "--strict", cwd=directory)
    assert (done.returncode, done.stdout) == (0, "conf/config.yml: ok\n")
    done = run("valve", "check", directory / "conf" / "permissions.yml")
    assert done.returncode == 0
    assert password not in (directory / "conf" / "users.yml").read_text()


async def test_a_server_with_these_files_lets_the_user_in_and_nobody_else(made, start):
    directory, password = made
    server = start("serve", "-c", "conf/config.yml", "--port", "0", cwd=directory).ready()
    assert "auth: File Authentication" in server.active
    client, answer = await login(server.port, "admin", password)
    assert answer is AuthAction.AUTH_SUCCESSFUL
    client.message(
        Topic.RECORD, RecordAction.CREATEANDUPDATE, name="profile/admin", version=1, data=b"{}",
        is_write_ack=True, correlation_id="1",
    )  # fmt: skip
    answer = await client.receive()
    assert (answer.topic, answer.action) == (Topic.RECORD, RecordAction.WRITE_ACKNOWLEDGEMENT)
    client.message(
        Topic.RECORD, RecordAction.CREATEANDUPDATE, name="profile/ada", version=1, data=b"{}",
        is_write_ack=True, correlation_id="2",
    )  # fmt: skip
    assert (await client.receive()).action == RecordAction.MESSAGE_DENIED
    await client.close()
    for name, wrong in (("admin", "x"), ("ada", password), ("admin", "")):
        client, answer = await login(server.port, name, wrong)
        assert answer is AuthAction.AUTH_UNSUCCESSFUL
        await client.close()
    assert server.end(signal.SIGTERM)[0] == 0
    assert (directory / "data" / "dsfast.db").exists()


async def test_sighup_reads_the_permissions_again(made, start):
    directory, password = made
    server = start("serve", "--port", "0", cwd=directory).ready()
    client, answer = await login(server.port, "admin", password)
    assert answer is AuthAction.AUTH_SUCCESSFUL
    file = directory / "conf" / "permissions.yml"
    rules = file.read_text()
    file.write_text("record: nonsense")
    server.signal(signal.SIGHUP)
    # A broken file is refused, with a line on standard error, and the old rules stay.
    assert "INVALID_CONFIG_DATA" in server.process.stderr.readline()
    client.message(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, names=["a"], correlation_id="1")
    assert (await client.receive()).is_ack
    assert (await client.receive()).action == RecordAction.READ_RESPONSE
    file.write_text(rules.replace("user.isAuthenticated", "false"))
    server.signal(signal.SIGHUP)
    # The subscription that the new rules forbid is ended.
    answer = await client.receive()
    assert (answer.action, answer.name) == (RecordAction.MESSAGE_DENIED, "a")
    client.message(Topic.RECORD, RecordAction.READ, name="b")
    answer = await client.receive()
    assert (answer.action, answer.name) == (RecordAction.MESSAGE_DENIED, "b")
    await client.close()


def test_files_that_exist_are_kept_unless_forced(made):
    directory, _ = made
    (directory / "conf" / "users.yml").write_text("mine")
    (directory / "conf" / "config.yml").unlink()
    done = run("init", cwd=directory)
    assert done.returncode == 1
    assert done.stderr == (
        "dsfast: conf/permissions.yml, conf/users.yml exists already (replace with --force)\n"
    )
    assert not (directory / "conf" / "config.yml").exists()
    assert (directory / "conf" / "users.yml").read_text() == "mine"
    assert run("init", "--force", cwd=directory).returncode == 0
    assert run("check", cwd=directory).returncode == 0


def test_another_directory_is_made(tmp_path):
    done = run("init", tmp_path / "a" / "b", cwd=tmp_path)
    assert done.returncode == 0
    config = load_from(tmp_path / "a" / "b" / "conf" / "config.yml")
    assert (config.http.host, config.http.port) == ("127.0.0.1", 6020)
    assert done.stdout.splitlines()[-1] == f"Start with: dsfast serve -c {tmp_path}/a/b/conf/config.yml"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "conf").write_text("")
    done = run("init", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


def test_the_hash_of_another_user_fits_the_file(made):
    directory, _ = made
    done = run("hash", "secret", cwd=directory)
    stored = done.stdout.removeprefix("Password hash: ").strip()
    (directory / "conf" / "users.yml").write_text(f'ada: {{password: "{stored}"}}\n')
    assert run("check", "--strict", cwd=directory).returncode == 0
