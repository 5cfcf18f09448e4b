"""The logger that writes what came before an error."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from dsfast import Server
from dsfast.config import load
from dsfast.plugin import LogLevel, Monitoring
from dsfast.services import Services
from dsfast_plugins.options import OptionError
from dsfast_plugins.ring import RingLogger
from tests.wire import Client

loops = ["uvloop"]


def make(level: Any = "info", **options: Any) -> RingLogger:
    services = Services()
    logger = RingLogger({"colors": False, **options}, services, load())
    services.logger = logger
    logger.init()
    logger.set_log_level(level)
    return logger


def ageless(text: str) -> list[str]:
    return re.sub(r"\d+ ms before", "N ms before", text).splitlines()


def test_lines_before_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    logger = make()
    logger.debug("A", "first")
    logger.get_namespace("PART").debug("B", "second")
    logger.info("C", "third")
    written = capsys.readouterr()
    assert (written.out, written.err) == ("C | third\n", "")
    logger.error("D", "boom")
    written = capsys.readouterr()
    assert ageless(written.out) == ["A | first [N ms before]", "PART | B | second [N ms before]"]
    assert written.err == "D | boom\n"
    logger.error("D", "again")
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", "D | again\n")


def test_only_the_last_lines_are_kept_and_only_their_text(capsys: pytest.CaptureFixture[str]) -> None:
    logger = make(size=2)

    class Big:
        pass

    thing = Big()
    for number in range(5):
        logger.debug("A", str(number), {"thing": thing})
    assert all(thing not in line for line in logger._ring)
    logger.debug("A", "x" * 100_000)
    logger.error("B")
    out = capsys.readouterr().out
    assert ageless(out) == ["A | 4 [N ms before]", "A | " + "x" * 2048 + " [N ms before]"]


@pytest.mark.parametrize(
    ("trigger", "dumps"), [("warn", [1, 1, 1]), ("error", [0, 1, 1]), ("fatal", [0, 0, 1])]
)
def test_what_triggers(capsys: pytest.CaptureFixture[str], trigger: str, dumps: list[int]) -> None:
    for write, expected in zip(("warn", "error", "fatal"), dumps, strict=True):
        logger = make(trigger=trigger)
        logger.debug("A", "before")
        getattr(logger, write)("B", "now")
        assert capsys.readouterr().out.count("before]") == expected


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    logger = make("warn")
    assert logger.should_log(LogLevel.DEBUG)
    logger.info("A", "kept")
    logger.warn("B", "shown")
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", "B | shown\n")
    logger.set_log_level("debug")
    logger.debug("C", "shown")
    assert capsys.readouterr().out == "C | shown\n"
    logger.set_log_level("off")
    assert not logger.should_log(LogLevel.ERROR)
    logger.error("D", "hidden")
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", "")


def test_lines_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    logger = make(format="json", redact=["card"])
    logger.get_namespace("PART").debug("A", "before", {"card": 5})
    logger.error("B", "now", {"card": 5})
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["event"], first["level"], first["namespace"]) == ("A", 20, "PART")
    assert first["ageMs"] >= 0
    assert "card" not in first
    assert (second["event"], second["message"], second["card"]) == ("B", "now", "[Redacted]")


def test_monitoring_is_told_as_by_every_logger() -> None:
    class Told(Monitoring):
        lines: list[str] = []

        def on_error_log(self, level: int, event: str, message: str, meta: Any) -> None:
            self.lines.append(event)

    logger = make()
    logger.services.monitoring = Told({}, logger.services, logger.config)
    logger.debug("A")
    logger.warn("B")
    assert Told.lines == ["B"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 0}, "option size: expected int >= 1"),
        ({"size": "many"}, "option size: expected int, got str"),
        ({"trigger": "info"}, "option trigger: invalid enum value 'info'"),
        ({"format": "xml"}, "option format: invalid enum value 'xml'"),
    ],
)
def test_wrong_options(options: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        RingLogger(options, Services(), load())


async def test_in_a_server(capfd: pytest.CaptureFixture[str]) -> None:
    """An error in the server shows what led to it."""

    class Failing(Monitoring):
        description = "fails"

        def on_login(self, allowed: bool, endpoint_type: str) -> None:
            raise RuntimeError("on purpose")

    server = Server(
        {
            "httpServer": {"options": {"host": "127.0.0.1", "port": 0}},
            "connectionEndpoints": [{"type": "ws-binary"}],
            "storage": {"type": "none"},
            "monitoring": {"class": Failing},
            "logger": {
                "class": RingLogger,
                "options": {"size": 5, "colors": False, "sizes": 1, "logLevel": "warn"},
            },
        }
    )
    await server.start()
    client = await Client.login(server.get_services().http_service.addresses[0][1])
    await client.close()
    await server.stop()
    written = capfd.readouterr()
    assert "INVALID_CONFIG_DATA | ring logger: option sizes is unknown, did you mean size?" in written.err
    assert "PLUGIN_ERROR | on_login: RuntimeError('on purpose')" in written.err
    before = ageless(written.out)
    assert len(before) == 5, before
    assert before[-1] == "INCOMING_CONNECTION | from undefined (127.0.0.1) [N ms before]"
