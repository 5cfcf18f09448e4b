"""`dsfast serve` with files, variables and flags; signals; logs."""

import http.client
import json
import re
import signal
from contextlib import closing

import pytest

from tests.commands import LIMIT, run
from tests.wire import Client

ADDRESS = re.compile(r"is ready at ws://(.*):(\d+)/(\S*) \((.*)\)")


@pytest.fixture
def serve(start, tmp_path):
    """Starts `dsfast serve` in an empty directory; the match of its ready line is ``ready``."""

    def serve(*arguments, **environment):
        server = start("serve", *arguments, cwd=tmp_path, **environment)
        server.match = server.wait_for(ADDRESS)
        server.host, server.port, server.active = server.match[1], int(server.match[2]), server.match[4]
        return server

    return serve


@pytest.fixture
def config_file(tmp_path):
    """Writes a configuration and returns its path."""

    def write(content, name="conf/config.yml"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return write


LISTEN = {"host": "127.0.0.1", "port": 0}


def test_without_any_configuration_only_this_machine_can_connect(serve):
    server = serve("--port", "0", "--in-memory")
    assert server.host == "127.0.0.1"


def test_with_a_file_the_host_is_that_of_the_file_or_the_default(serve, config_file):
    server = serve("-c", config_file({"httpServer": {"options": {"port": 0}}}), "--in-memory")
    assert server.host == "0.0.0.0"


def test_flags_that_are_not_given_change_nothing(serve, config_file, tmp_path):
    options = {"healthCheckPath": "/well", **LISTEN}
    file = config_file({"httpServer": {"options": options}, "dataDir": str(tmp_path / "own"), "logLevel": 0})
    server = serve("--config", file)
    assert any("State transition" in line for line in server.lines)
    assert (tmp_path / "own" / "dsfast.db").exists()
    assert not (tmp_path / "data").exists()
    assert get(server.port, "/well") == 200


def test_flags_win_over_variables_and_those_over_the_file(serve, config_file):
    file = config_file({"serverName": "file", "httpServer": {"options": {"host": "127.0.0.2", "port": 1}}})
    variables = {"DSFAST_HTTP_SERVER__OPTIONS__PORT": "2", "DSFAST_SERVER_NAME": "variable"}
    server = serve("-c", file, "--host", "127.0.0.1", "--port", "0", "--in-memory", **variables)
    assert server.host == "127.0.0.1"
    assert "INFO | server name: variable" in server.lines
    server = serve(
        "-c", file, "--host", "127.0.0.1", "--port", "0", "--server-name", "flag", "--in-memory", **variables
    )
    assert "INFO | server name: flag" in server.lines


def test_host_and_port_win_over_what_the_file_listens_on(serve, config_file, tmp_path):
    file = config_file({"httpServer": {"options": {"listen": [f"unix:{tmp_path / 'socket'}"]}}})
    assert serve("-c", file, "--host", "127.0.0.1", "--port", "0", "--in-memory").host == "127.0.0.1"
    assert not (tmp_path / "socket").exists()


def test_a_variable_alone_can_open_the_host(serve):
    server = serve("--in-memory", "--port", "0", DSFAST_HTTP_SERVER__OPTIONS__HOST="127.0.0.2")
    assert server.host == "127.0.0.2"


def test_the_level_of_the_command_line_wins_over_that_of_the_logger(serve, config_file):
    file = config_file({"logger": {"options": {"logLevel": "error"}}, "httpServer": {"options": LISTEN}})
    assert serve("-c", file, "--log-level", "INFO", "--in-memory")


@pytest.mark.parametrize("name", ["conf/config.yml", "conf/config.json"])
def test_a_file_in_conf_is_found(serve, config_file, name):
    config_file({"serverName": "found", "httpServer": {"options": LISTEN}}, name)
    server = serve("--in-memory")
    assert "INFO | server name: found" in server.lines


def test_disable_auth_and_disable_permissions_win_over_the_file(serve, config_file):
    users = {"ada": {"password": "x"}}
    file = config_file(
        {"auth": [{"type": "file", "options": {"users": users}}], "httpServer": {"options": LISTEN}}
    )
    server = serve("-c", file, "--in-memory")
    assert "auth: File Authentication" in server.active
    server = serve("-c", file, "--in-memory", "--disable-auth", "--disable-permissions")
    assert "auth: Open Authentication" in server.active
    assert "permission: none" in server.active


@pytest.mark.parametrize("arguments", [["--inspect"], ["--inspect=127.0.0.1:9229"]])
def test_inspect_is_accepted_with_a_warning(serve, arguments):
    server = serve("--port", "0", "--in-memory", *arguments)
    assert server.end(signal.SIGTERM) == (
        0,
        "dsfast: --inspect is for the debugger of Node.js and has no effect\n",
    )


def test_start_is_another_name_of_serve(start, tmp_path):
    server = start("start", "--port", "0", "--in-memory", "--colors", "false", cwd=tmp_path)
    assert server.ready().end(signal.SIGINT) == (0, "")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"foo": 1, "logLevel": 7}, "1) Property foo is not expected to be here"),
        ("a: [", "line"),
        ({"auth": [{"type": "file", "options": {"users": {}}}]}, "no users present in user file"),
    ],
)
def test_a_mistake_in_the_file_is_told_without_a_traceback(config_file, tmp_path, content, problem):
    done = run("serve", "-c", config_file(content), "--in-memory", "--port", "0", cwd=tmp_path)
    assert done.returncode == 1
    assert problem in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_missing_file_is_one_line(tmp_path):
    done = run("serve", "-c", "nothing.yml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Configuration file not found at: {tmp_path}/nothing.yml\n"


def get(port, path):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


def test_sigusr1_switches_debug_lines_on_and_off(serve):
    server = serve("--port", "0", "--in-memory")
    assert not any("State transition" in line for line in server.lines)
    server.signal(signal.SIGUSR1)
    assert get(server.port, "/health-check") == 200  # a turn of the loop, so that the signals are not one
    server.signal(signal.SIGTERM)
    assert server.wait_for(r"State transition \(stop\): RUNNING")
    assert server.end() == (0, "")
    server = serve("--port", "0", "--in-memory")
    for _ in range(2):
        server.signal(signal.SIGUSR1)
        assert get(server.port, "/health-check") == 200
    server.signal(signal.SIGTERM)
    assert "State transition" not in server.process.stdout.read()


def test_a_hang_up_does_not_end_a_server_without_a_terminal(serve):
    server = serve("--port", "0", "--in-memory")
    server.signal(signal.SIGHUP)
    assert "no rules to be read again" in server.process.stderr.readline()
    assert get(server.port, "/health-check") == 200
    assert server.end(signal.SIGTERM) == (0, "")


async def test_an_output_that_nobody_reads_does_not_stop_the_server(serve):
    server = serve("--port", "0", "--in-memory", "--log-level", "debug")
    # Some 200 bytes a client: more than the 64 KiB that a pipe takes.
    for number in range(700):
        client = await Client.login(server.port, f"user{number}")
        await client.close()
    assert get(server.port, "/health-check") == 200
    server.signal(signal.SIGTERM)
    assert server.process.wait(LIMIT) == 0
    assert "CLIENT_DISCONNECTED | user0" in server.process.stdout.read()


async def test_the_json_logger_writes_one_object_per_line(serve, config_file, start, tmp_path):
    file = config_file({"logger": {"type": "json"}, "logLevel": 0, "httpServer": {"options": LISTEN}})
    server = start("serve", "-c", file, "--in-memory", "--colors", "true", cwd=tmp_path)
    port = int(server.wait_for(r"is ready at ws://127\.0\.0\.1:(\d+)/")[1])
    client = await Client.login(port, r"eve\n{level:60}")
    await client.close()
    server.wait_for("CLIENT_DISCONNECTED")
    server.signal(signal.SIGTERM)
    rest, errors = server.process.communicate()
    assert errors == ""
    entries = [json.loads(line) for line in [*server.lines, *rest.splitlines()]]
    for entry in entries:
        assert entry["level"] in (20, 30)
        assert entry["pid"] == server.process.pid
        assert {"time", "hostname", "event", "message"} <= set(entry)
    assert ("AUTH_SUCCESSFUL", "eve\n{level:60}") in {(e["event"], e["message"]) for e in entries}
