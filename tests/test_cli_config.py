"""`dsfast config`, `hash` and `info`."""

import fcntl
import json
import os
import platform
import pty
import re
import subprocess
import termios

import pytest
import yaml

from dsfast import __version__
from dsfast.config import load_from
from dsfast.config.document import render
from dsfast.config.effective import effective
from dsfast.config.json_schema import json_schema
from dsfast.services.authentication.passwords import Argon2id, Passwords
from tests.commands import COMMAND, LIMIT, run, variables


@pytest.fixture
def write(tmp_path):
    def write(content):
        file = tmp_path / "config.yml"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return write


SECRET = """\
serverName: a "b"
rpc:
  ackTimeout: 7
auth:
  - type: file
    options:
      users: {ada: {password: hunter2, serverData: {"a/b ~c": [1, {}]}}}
plugins:
  mine:
    name: nix
    options: {apiToken: hunter2, url: "redis://ada:hunter2@host"}
"""


def test_show_prints_what_is_in_effect_and_no_secrets(write, tmp_path):
    file = write(SECRET)
    done = run("config", "show", "-c", file, "--port", "7", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    expected = effective(load_from(file, flags={"httpServer": {"options": {"port": 7}}}), mask=True)
    assert yaml.safe_load(done.stdout) == expected
    as_json = run("config", "show", "-c", file, "--port", "7", "--json", cwd=tmp_path)
    assert json.loads(as_json.stdout) == expected


def test_show_says_where_the_values_come_from(write, tmp_path):
    file = write(SECRET)
    done = run(
        "config", "show", "-c", file, "--port", "7", cwd=tmp_path, DSFAST_LISTEN__RESPONSE_TIMEOUT="99"
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert f"ackTimeout: 7  # {file}, line 3" in lines
    assert "port: 7  # command line" in lines
    assert "responseTimeout: 99  # DSFAST_LISTEN__RESPONSE_TIMEOUT" in lines
    assert 'host: "0.0.0.0"' in lines


def test_without_a_file_the_host_is_this_machine(tmp_path):
    assert '    host: "127.0.0.1"\n' in run("config", "show", cwd=tmp_path).stdout


def test_a_wrong_configuration_is_not_shown(write, tmp_path):
    done = run("config", "show", "-c", write({"foo": 1}), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("There was an error validating your configuration:\n1) Property foo")


def test_docs_and_schema():
    assert run("config", "docs").stdout == render()
    assert json.loads(run("config", "schema").stdout) == json_schema()


# hash

HASHED = {"hash": "sha256", "iterations": 1000, "keyLength": 24}


def with_auth(*entries):
    return {"auth": list(entries)}


def file_auth(**options):
    return {"type": "file", "options": {"users": {"ada": {"password": "x" * 60}}, **options}}


def test_a_hash_of_the_first_file_authentication(write, tmp_path):
    write(with_auth({"type": "none"}, file_auth(**HASHED), file_auth()))
    done = run("hash", "pässwörd", "-c", "config.yml", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    stored = re.fullmatch(r"Password hash: (\S+)\n", done.stdout)[1]
    passwords = Passwords("sha256", 1000, 24)
    assert passwords.matches("pässwörd", stored)
    assert not passwords.matches("passwörd", stored)
    assert run("hash", "pässwörd", "-c", "config.yml", cwd=tmp_path).stdout != done.stdout


@pytest.mark.parametrize(
    ("config", "arguments", "text"),
    [
        ({}, ["x"], "Error: Can only use hash with file authentication as auth type"),
        (with_auth(file_auth()), ["x"], "Error: Can only use hash with file authentication"),
        (with_auth(file_auth(**HASHED)), [], "Error: Must provide password to hash"),
        (with_auth(file_auth(**HASHED)), [""], "Error: Must provide password to hash"),
        (with_auth(file_auth(**HASHED)), ["-"], "Error: Must provide password to hash"),
        (with_auth(file_auth(**{**HASHED, "hash": "md7"})), ["x"], "dsfast: Unknown Hash md7"),
    ],
)
def test_hash_needs_a_file_authentication_and_a_password(write, tmp_path, config, arguments, text):
    write(config)
    done = run("hash", *arguments, "-c", "config.yml", cwd=tmp_path, given="")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{text}\n")


def test_argon2_needs_no_configuration(tmp_path):
    done = run("hash", "--argon2", "-", cwd=tmp_path, given="secret\nmore\n")
    assert Argon2id().matches("secret", done.stdout.removeprefix("Password hash: ").strip())


def take_terminal():
    """In the child: standard input becomes the terminal of the new session, as getpass needs one."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_on_a_terminal_the_password_is_asked_for_and_not_shown(write, tmp_path):
    write(with_auth(file_auth(**HASHED)))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "hash", "-c", "config.yml"],
        cwd=tmp_path,
        env=variables({}),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=take_terminal,  # noqa: PLW1509 - there are no threads here
    )
    os.close(theirs)
    shown = b""
    for _ in range(2):
        while not shown.endswith(b": "):
            shown += os.read(ours, 100)
        shown = b""
        os.write(ours, b"secret\n")
    out, _ = process.communicate(timeout=LIMIT)
    os.close(ours)
    assert Passwords("sha256", 1000, 24).matches(
        "secret", out.decode().removeprefix("Password hash: ").strip()
    )


# info


def test_info(tmp_path):
    facts = json.loads(run("info", cwd=tmp_path).stdout)
    assert facts["dsfastVersion"] == __version__
    assert facts["deepstreamVersion"] == "10.1.4"
    assert facts["pythonVersion"] == platform.python_version()
    assert {"platform", "arch", "plugins"} <= facts.keys()
    assert "libs" not in facts


def test_info_lists_what_a_library_directory_has(tmp_path):
    package = tmp_path / "lib" / "dsfast_cache_mine-1.2.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: dsfast-cache-mine\nVersion: 1.2\n")
    (tmp_path / "lib" / "dsfast_logger_own.py").write_text("")
    facts = json.loads(run("info", "-l", "lib", cwd=tmp_path).stdout)
    assert facts["libs"] == ["dsfast-cache-mine:1.2", "dsfast_logger_own:"]


def test_an_output_that_is_closed_early_is_no_traceback(tmp_path):
    done = subprocess.run(
        ["bash", "-c", f"{' '.join(COMMAND)} config schema | head -1; echo ${{PIPESTATUS[0]}}"],
        env=variables({}),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.stdout.startswith("{\n")
    assert "Traceback" not in done.stderr
