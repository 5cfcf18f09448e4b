"""The command line against real processes: ready line, signals, exit codes, one-line errors."""

import contextlib
import http.client
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dsfast import __version__
from tests.commands import LIMIT, READY, run


@pytest.fixture
def serve(start, tmp_path):
    """Starts a server on a free port with a data directory of its own; returns it when it is ready."""

    def serve(*arguments):
        return start("serve", "--port", "0", "--data-dir", tmp_path / "data", *arguments).ready()

    return serve


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option):
    done = run(option)
    assert (done.returncode, done.stdout) == (0, f"dsfast {__version__}\n")


def test_the_installed_command_is_the_module():
    script = Path(sys.executable).parent / "dsfast"
    if not script.exists():
        pytest.skip("the package is not installed here, only built in place")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == f"dsfast {__version__}\n"


def test_help_names_the_commands():
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "sqlite", "export", "import"):
        assert re.search(rf"^  {command} ", done.stdout, re.MULTILINE)


def test_no_command_shows_the_help():
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "serve" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["serv"],
        ["--nothing"],
        ["serve", "--port", "many"],
        ["serve", "--port", "70000"],
        ["serve", "--port", "-1"],
        ["serve", "--log-level", "loud"],
        ["serve", "--data-dir", __file__],
        ["serve", "--data-dir", ""],
        ["serve", "--host", ""],
        ["serve", "--nothing"],
        ["serve", "surplus"],
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(arguments):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dsfast: ")
    assert done.stderr.count("\n") == 1


def test_a_server_says_what_is_active_answers_and_drains(serve, tmp_path):
    server = serve()
    assert get(server.port, "/health-check") == 200
    assert get(server.port, "/nothing") == 404
    for part in ("auth: Open Authentication", "permission: none", "cache: ", "durability full"):
        assert part in server.active
    assert "INFO | Deepstream started" in server.lines
    assert (tmp_path / "data" / "dsfast.db").exists()
    server.signal(signal.SIGTERM)
    assert server.end() == (0, "")


def test_an_interrupt_drains_too(serve):
    server = serve("--log-level", "INFO")
    server.signal(signal.SIGINT)
    assert server.end() == (0, "")


def test_in_memory_writes_no_file(serve, tmp_path):
    server = serve("--in-memory")
    assert "storage: none" in server.active
    server.signal(signal.SIGTERM)
    assert server.end() == (0, "")
    assert not (tmp_path / "data").exists()


def test_the_port_is_free_again_and_the_data_directory_too(serve):
    for _ in range(2):
        server = serve()
        server.signal(signal.SIGTERM)
        assert server.end() == (0, "")


def test_a_taken_port_is_one_line_and_exit_code_1(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--port", str(port), "--data-dir", str(tmp_path), "--log-level", "warn")
    assert done.returncode == 1
    assert done.stderr == f"dsfast: Cannot listen on 127.0.0.1:{port}: the address is already in use\n"
    assert done.stdout == ""


def test_an_address_of_another_machine_is_one_line_and_exit_code_1(tmp_path):
    # 192.0.2.0/24 is reserved for documentation: no machine has it.
    done = run("serve", "--host", "192.0.2.1", "--port", "0", "--in-memory", "--log-level", "warn")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("dsfast: Cannot listen on 192.0.2.1:")
    assert done.stderr.count("\n") == 1


def test_a_data_directory_in_use_is_one_line_and_exit_code_1(serve, tmp_path):
    serve()
    done = run("serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert (done.returncode, done.stderr) == (1, "")
    # Not always the last one: other services get ready at the same time.
    (fatal,) = [line for line in done.stdout.splitlines() if line.startswith("PLUGIN_INITIALIZATION_ERROR")]
    assert fatal.startswith("PLUGIN_INITIALIZATION_ERROR | storage: ")


def test_with_logging_off_the_reason_is_still_told(serve, tmp_path):
    serve()
    done = run("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), "--log-level", "off")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("dsfast: storage: ")


# Stands in for a part that keeps the server from stopping.
STUCK = """
import asyncio
from dsfast.cli import main
from dsfast.server import Server

async def stop(self):
    print("STOPPING", flush=True)
    await asyncio.Event().wait()

Server.stop = stop
main()
"""

BLOCKED = STUCK.replace("await asyncio.Event().wait()", "import time; time.sleep(60)")

# A fatal line while the server starts, and one when it has started.
FATAL = """
from dsfast.cli import main
from dsfast.server import Server, State

def tell(self):
    def on_state(state):
        if state is State.{state}:
            self.get_services().logger.fatal("PLUGIN_ERROR", "dead")
    self.on("DEEPSTREAM_STATE_CHANGED", on_state)

make = Server.__init__
Server.__init__ = lambda self, config: (make(self, config), tell(self))[0]
main()
"""


def serve_with(start, code):
    server = start("serve", "--port", "0", "--in-memory", command=[sys.executable, "-c", code])
    server.wait_for(READY)
    return server


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_at_once(start, number, code):
    server = serve_with(start, STUCK)
    server.signal(signal.SIGTERM)
    server.wait_for("STOPPING")
    server.signal(number)
    assert server.end() == (code, "")


def test_a_blocked_server_is_ended_by_the_watchdog(start):
    code = "import dsfast.cli.serve as s; s.GRACE = -9.9\n" + BLOCKED
    server = serve_with(start, code)
    server.signal(signal.SIGTERM)
    exit_code, errors = server.end()
    assert exit_code == 1
    assert re.fullmatch(r"dsfast: still not stopped after \S+ s, ending\n", errors)


@pytest.mark.parametrize("state", ["PLUGIN_INIT", "RUNNING"])
def test_a_fatal_error_ends_the_server_with_exit_code_1(start, state):
    code = FATAL.replace("{state}", state)
    server = start("serve", "--port", "0", "--in-memory", command=[sys.executable, "-c", code])
    server.wait_for(r"PLUGIN_ERROR \| dead")
    server.wait_for(READY)
    assert server.end() == (1, "")


def test_a_closed_output_does_not_end_the_server(serve):
    server = serve("--log-level", "debug")
    server.process.stdout.close()
    server.process.stdout = None
    assert get(server.port, "/health-check") == 200
    server.signal(signal.SIGTERM)
    assert server.end()[0] == 0
