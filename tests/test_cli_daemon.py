"""`dsfast daemon`: starts the server again, passes signals on, gives up, leaves nobody behind."""

import os
import signal
import socket
import sys

import psutil
import pytest

from tests.commands import LIMIT, run

QUICKLY = "import dsfast.cli.daemon as d; d.DELAY = 0; from dsfast.cli import main; main()"


@pytest.fixture
def daemon(start, tmp_path):
    """Starts a daemon on a free port; returns it when its server is ready."""

    def daemon(*arguments, command=None):
        options = {} if command is None else {"command": command}
        return start("daemon", "--port", "0", *arguments, cwd=tmp_path, **options).ready()

    return daemon


def child_of(process):
    (child,) = psutil.Process(process.process.pid).children()
    return child


def test_a_server_that_ends_is_started_again_with_the_same_arguments(daemon):
    process = daemon("--in-memory", "--server-name", "a name")
    first = child_of(process)
    for end in (signal.SIGKILL, signal.SIGTERM):
        child_of(process).send_signal(end)
        process.ready()
        assert process.lines.count("INFO | server name: a name") == 2
        process.lines = ["INFO | server name: a name"]
    assert child_of(process).pid != first.pid
    exit_code, errors = process.end(signal.SIGTERM)
    assert exit_code == 0
    assert errors.splitlines() == [
        "dsfast: the server has ended with code 137, starting it again",
        "dsfast: the server has ended with code 0, starting it again",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_end_ends_both(daemon, number):
    process = daemon("--in-memory")
    child = child_of(process)
    assert process.end(number) == (0, "")
    assert not child.is_running()


def test_other_signals_reach_the_server(daemon):
    process = daemon("--in-memory")
    process.signal(signal.SIGHUP)
    assert "no rules to be read again" in process.process.stderr.readline()
    process.signal(signal.SIGUSR1)
    process.signal(signal.SIGTERM)
    process.wait_for("State transition")
    assert process.end() == (0, "")


def test_the_end_of_a_daemon_by_force_is_the_end_of_its_server(daemon):
    process = daemon("--in-memory")
    child = child_of(process)
    process.signal(signal.SIGKILL)
    child.wait(LIMIT)


def test_a_server_that_ends_too_often_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(
            "daemon",
            "--in-memory",
            "--port",
            taken.getsockname()[1],
            cwd=tmp_path,
            command=[sys.executable, "-c", QUICKLY],
        )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1] == "Too many restarts within the last 5 seconds. Please check the script."
    assert sum("already in use" in line for line in lines) == 11
    assert "Traceback" not in done.stderr


def test_a_mistake_in_the_configuration_is_told_once(tmp_path):
    (tmp_path / "config.yml").write_text("foo: 1\n")
    done = run("daemon", "-c", "config.yml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("Property foo is not expected to be here") == 1


def test_a_server_that_does_not_end_is_killed(start, tmp_path):
    code = QUICKLY.replace("d.DELAY = 0", "d.GRACE = -4.9")
    (tmp_path / "config.yml").write_text("shutdownTimeout: 10000\n")
    process = start(
        "daemon", "-c", "config.yml", "--host", "127.0.0.1", "--port", "0", "--in-memory",
        command=[sys.executable, "-c", code],
        cwd=tmp_path,
    ).ready()  # fmt: skip
    child = child_of(process)
    os.kill(child.pid, signal.SIGSTOP)
    assert process.end(signal.SIGTERM)[0] == 137
    assert not child.is_running()
