"""The JSON logger: the fields of pino, plain metadata, no secrets."""

import json
import os
import socket
import time

import pytest

from dsfast.config import load
from dsfast.plugin import LogLevel
from dsfast.services import Services
from dsfast.services.logger import FloodGuard
from dsfast.services.logger.json import JsonLogger


@pytest.fixture
def logger(capsys):
    return make()


def make(**options):
    services = Services()
    services.logger = JsonLogger(options, services, load())
    services.logger.set_log_level(LogLevel.DEBUG)
    return services.logger


def lines(capsys):
    out, err = capsys.readouterr()
    assert err == ""
    assert out == "" or out.endswith("\n")
    return [json.loads(line) for line in out.splitlines()]


def line(capsys):
    (only,) = lines(capsys)
    return only


def test_the_fields_are_those_of_pino(logger, capsys):
    before = int(time.time() * 1000)
    logger.get_namespace("STORAGE").warn("E", "text", {"more": 1})
    written = line(capsys)
    assert before <= written.pop("time") <= time.time() * 1000
    assert written == {
        "level": 40,
        "pid": os.getpid(),
        "hostname": socket.gethostname(),
        "event": "E",
        "message": "text",
        "namespace": "STORAGE",
        "more": 1,
    }


def test_the_levels_have_the_numbers_of_pino(logger, capsys):
    for write in (logger.debug, logger.info, logger.warn, logger.error, logger.fatal):
        write("E")
    assert [entry["level"] for entry in lines(capsys)] == [20, 30, 40, 50, 60]


def test_the_level_decides(logger, capsys):
    logger.set_log_level("error")
    logger.warn("A")
    logger.error("B")
    assert line(capsys)["event"] == "B"


@pytest.mark.parametrize(
    "text", ['\n\r\t\0"\\', "\x1b[2J\x9b1m", "\u2028\u2029\u202e", "\ud800 ä 🙂", "\x7f"]
)
def test_any_text_is_one_line_of_plain_json(logger, capsys, text):
    logger.info(text, text, {text: text})
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    assert all(char == "\n" or (char.isprintable() and char != "\u202e") for char in out)
    written = json.loads(out)
    expected = text.encode("utf-8", "backslashreplace").decode()
    assert written["event"] == written["message"] == written[expected] == expected


def test_metadata_cannot_replace_the_fields_of_the_line(logger, capsys):
    logger.info("E", "m", {"event": "x", "message": "x", "level": 60, "pid": 0, "time": 0, "hostname": "x"})
    written = line(capsys)
    assert (written["event"], written["message"], written["level"]) == ("E", "m", 30)
    assert (written["pid"], written["hostname"]) == (os.getpid(), socket.gethostname())
    assert list(written).count("event") == 1


class Internals:
    secret = "hunter2"

    def __repr__(self):
        return self.secret


def test_objects_are_named_and_never_written_out(logger, capsys):
    logger.info("E", "m", {"socketWrapper": Internals(), "list": [Internals()], "error": ValueError("no")})
    written = line(capsys)
    assert written["socketWrapper"] == "[Internals]"
    assert written["list"] == ["[Internals]"]
    assert written["error"] == "ValueError: no"


@pytest.mark.parametrize(
    "name",
    ["password", "authData", "auth_data", "sslPassphrase", "Authorization", "set-cookie", "accessToken"],
)
def test_values_with_the_name_of_a_secret_are_replaced(logger, capsys, name):
    logger.info("E", "m", {"a": {"b": [{name: {"x": "hunter2"}, "c": 1}]}})
    assert line(capsys)["a"] == {"b": [{name: "[Redacted]", "c": 1}]}


def test_redact_names_more(capsys):
    logger = make(redact=["socketWrapper.config", "users.*.email", "hosts.1"])
    meta = {
        "socketWrapper": {"config": {"a": 1}, "other": 1},
        "users": {"ada": {"email": "a@b", "age": 36}},
        "hosts": ["a", "b"],
        "config": 1,
    }
    logger.info("E", "m", meta)
    written = line(capsys)
    assert written["socketWrapper"] == {"config": "[Redacted]", "other": 1}
    assert written["users"] == {"ada": {"email": "[Redacted]", "age": 36}}
    assert written["hosts"] == ["a", "[Redacted]"]
    assert written["config"] == 1
    assert meta["users"]["ada"]["email"] == "a@b"


def test_numbers_of_every_size(logger, capsys):
    meta = {"big": 10**30, "level_": LogLevel.WARN, "nan": float("nan"), "yes": True, "none": None, "pi": 3.5}
    logger.info("E", "m", meta)
    written = line(capsys)
    assert written["big"] == str(10**30)
    assert (written["level_"], written["nan"], written["yes"], written["none"], written["pi"]) == (
        2,
        None,
        True,
        None,
        3.5,
    )


def test_large_and_endless_metadata_is_cut(logger, capsys):
    endless = {}
    endless["again"] = endless
    logger.info("E", "x" * 100_000, {"endless": endless, "many": list(range(100_000)), "text": "y" * 100_000})
    out = capsys.readouterr().out
    assert len(out) < 40_000
    written = json.loads(out)
    assert written["message"].endswith("... (100000 characters)")
    assert len(written["many"]) == 100


def test_the_flood_guard_sums_up_with_the_count_as_metadata(logger, capsys):
    guard = FloodGuard(logger, limit=1)
    for _ in range(4):
        guard.warn("peter\n", "E", "bad")
    guard.close()
    first, last = lines(capsys)
    assert first["message"] == "bad"
    assert last["message"] == "3 more of these from peter\n in the last 10 s"
    assert (last["level"], last["event"], last["repeated"], last["source"]) == (40, "E", 3, "peter\n")
