"""`dsfast service`: units of systemd, scripts of init.d."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.commands import LIMIT, READY, run

# The command with other places than those of this machine.
ELSEWHERE = """
import sys
from pathlib import Path
import dsfast.cli.service as service
root = Path(sys.argv.pop(1))
service.SYSTEMD_UNITS = service.INIT_SCRIPTS = root
kind = sys.argv.pop(1)
service._kind = lambda: kind
from dsfast.cli import main
main()
"""


@pytest.fixture
def service(tmp_path):
    """Runs `dsfast service` for a kind of system; files go to ``places``, and systemctl only writes a log."""
    places = tmp_path / "places"
    places.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    systemctl = programs / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/systemctl.log\n')
    systemctl.chmod(0o755)

    def service(kind, *arguments):
        return run(
            places,
            kind,
            "service",
            *arguments,
            cwd=tmp_path,
            command=[sys.executable, "-c", ELSEWHERE],
            PATH=f"{programs}:{os.environ['PATH']}",
        )

    service.places = places
    service.calls = lambda: (tmp_path / "systemctl.log").read_text().splitlines()
    return service


ADD = ("add", "-c", "conf/config.yml", "-l", "logs")


def test_a_unit_of_systemd(service, tmp_path):
    done = service("systemd", *ADD, "-n", "rooms")
    file = service.places / "rooms.service"
    assert done.stdout.splitlines() == [
        f"Installing service on: {file}",
        "SystemD service registered successfully",
    ]
    lines = file.read_text().splitlines()
    assert f"StandardOutput=append:{tmp_path}/logs/rooms-out.log" in lines
    assert f"StandardError=append:{tmp_path}/logs/rooms-err.log" in lines
    assert (
        f'ExecStart="{sys.executable}" "-m" "dsfast" "daemon" "--config" "{tmp_path}/conf/config.yml"'
        in lines
    )
    assert {"Description=rooms", "After=network.target", "Restart=always", "User=root", "Group=root"} < {
        *lines
    }
    assert (tmp_path / "logs").is_dir()

    again = service("systemd", *ADD, "-n", "rooms")
    assert (again.returncode, again.stderr) == (1, "Service already exists, please uninstall first\n")
    for action in ("start", "restart", "status", "stop"):
        assert service("systemd", action, "-n", "rooms").returncode == 0
    removed = service("systemd", "remove", "-n", "rooms")
    assert removed.stdout.splitlines() == [
        f"Removing service on: {file}",
        "SystemD service removed successfully",
    ]
    assert not file.exists()
    assert service.calls() == [
        "daemon-reload", "start rooms", "restart rooms", "status rooms", "stop rooms",
        "disable --now rooms", "daemon-reload",
    ]  # fmt: skip
    gone = service("systemd", "remove", "-n", "rooms")
    assert (gone.returncode, gone.stderr) == (1, "Service doesn't exists, nothing to uninstall\n")


def test_a_dry_run_prints_the_unit_and_changes_nothing(service, tmp_path):
    done = service("systemd", *ADD, "--dry-run", "--user", "www-data")
    assert done.returncode == 0
    assert done.stdout.startswith("[Unit]\nDescription=dsfast\n")
    assert "\nUser=www-data\nGroup=www-data\n" in done.stdout
    assert not (tmp_path / "logs").exists()
    assert list(service.places.iterdir()) == []
    assert service("systemd", "start", "--dry-run").stdout == "systemctl start dsfast\n"


STRANGE = "a b%h$HOME\"'\\c;d"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("directory", ["plain", STRANGE])
def test_systemd_accepts_the_unit(service, tmp_path, directory):
    conf = tmp_path / directory
    conf.mkdir()
    done = service("systemd", "add", "-c", conf / "config.yml", "-l", conf, "-n", "rooms.v1", "--dry-run")
    unit = tmp_path / "rooms.v1.service"
    unit.write_text(done.stdout)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert "rooms.v1.service" not in verified.stderr
    assert verified.returncode == 0


@pytest.mark.parametrize("kind", ["systemd", "init.d"])
@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "a b", "a;reboot", "$(reboot)", "-x", "a\nb", "x" * 65, "ä"]
)
def test_names_that_would_be_more_than_a_name_are_refused(service, kind, name):
    for option in ("-n", "--user"):
        done = service(kind, *ADD, f"{option}{'=' if option[1] == '-' else ''}{name}")
        assert done.returncode == 2
    assert list(service.places.iterdir()) == []


def test_line_breaks_in_paths_are_refused(service):
    for option in ("-c", "-l", "-p"):
        done = service("systemd", *ADD, option, "a\nExecStartPre=reboot")
        assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("missing", ["-c", "-l"])
def test_adding_needs_configuration_and_log_directory(service, missing):
    given = {"-c": "a.yml", "-l": "logs"}
    del given[missing]
    done = service("systemd", "add", *next(iter(given.items())))
    assert done.returncode == 1
    assert done.stderr == "Please provide the config and log directory when adding a service\n"


def test_an_unknown_action(service):
    done = service("systemd", "reboot")
    assert done.returncode == 2
    text = 'Unknown action for service, please "add", "remove", "start", "stop", "restart" or "status"'
    assert text in done.stderr


def test_a_directory_that_cannot_be_written_is_one_line(service):
    service.places.rmdir()
    done = service("systemd", *ADD)
    assert done.returncode == 1
    assert re.fullmatch(r"dsfast: .*dsfast\.service: No such file or directory\n", done.stderr)


@pytest.fixture
def script(service, tmp_path):
    """A script for init.d whose paths are strange, of a server on a free port."""
    directory = tmp_path / STRANGE
    directory.mkdir()
    config = directory / "config.yml"
    config.write_text("httpServer: {options: {host: 127.0.0.1, port: 0}}\nstorage: {type: none}\n")
    logs, pids = directory / "logs", directory / "pids"
    done = service("init.d", "add", "-c", config, "-l", logs, "-p", pids, "-n", "rooms")
    file = service.places / "rooms"
    assert done.stdout.splitlines() == [
        f"Installing service on: {file}",
        "init.d service registered successfully",
    ]
    assert os.access(file, os.X_OK)

    def script(action):
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        done = subprocess.run(
            [file, action], env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        return done.returncode, done.stdout.strip()

    script.log = logs / "rooms-out.log"
    script.pid = pids / "rooms.pid"
    yield script
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(script.pid.read_text()), signal.SIGKILL)


def ready_in(log, times=1):
    """Wait until a server has written so many ready lines to its log; its last port."""
    deadline = time.monotonic() + LIMIT
    while len(found := READY.findall(log.read_text() if log.exists() else "")) < times:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(found[-1][0])


def test_an_init_script_starts_and_stops_a_server(script):
    assert script("status") == (3, "rooms is not running")
    assert script("stop") == (0, "rooms is not running")
    assert script("start") == (0, "rooms started")
    connection = http.client.HTTPConnection("127.0.0.1", ready_in(script.log), timeout=LIMIT)
    connection.request("GET", "/health-check")
    assert connection.getresponse().status == 200
    connection.close()
    assert script("start") == (0, "rooms is running already")
    assert script("status") == (0, "rooms is running")
    assert script("reload") == (0, "")
    pid = script.pid.read_text()
    assert script("restart") == (0, "rooms stopped\nrooms started")
    ready_in(script.log, 2)
    assert script.pid.read_text() != pid
    assert script("stop") == (0, "rooms stopped")
    assert not script.pid.exists()
    assert script("explode")[0] == 2


def test_removing_an_init_script(service, script):
    done = service("init.d", "remove", "-n", "rooms")
    assert done.stdout.splitlines()[-1] == "init.d service removed successfully"
    assert not (service.places / "rooms").exists()
