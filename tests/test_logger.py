"""The built-in logger, the rules of the base class and the flood guard."""

import asyncio
import io
import sys

import pytest

from dsfast.config import load
from dsfast.plugin import Logger, LogLevel, Monitoring
from dsfast.services import Services
from dsfast.services.logger import DefaultLogger, FloodGuard
from dsfast.services.logger.json import JsonLogger


@pytest.fixture
def fatal_calls():
    return []


@pytest.fixture
def services(fatal_calls):
    return Services(lambda: fatal_calls.append(1))


def make_logger(services, kind=DefaultLogger, **options):
    services.logger = kind(options, services, load())
    services.logger.set_log_level(LogLevel.INFO)
    return services.logger


def test_lines_and_their_streams(services, capsys):
    logger = make_logger(services)
    logger.set_log_level(LogLevel.DEBUG)
    logger.debug("D", "a")
    logger.info("I", "b")
    logger.fatal("F", "c")
    logger.warn("W", "d")
    logger.error("E")
    out, err = capsys.readouterr()
    assert out == "D | a\nI | b\nF | c\n"
    assert err == "W | d\nE | \n"


def test_the_namespace_comes_first(services, capsys):
    make_logger(services).get_namespace("STORAGE").info("INFO", "text", {"more": 1})
    assert capsys.readouterr().out == "STORAGE | INFO | text\n"


def test_the_level_decides_and_can_change_at_run_time(services, capsys):
    logger = make_logger(services)
    logger.debug("A", "1")
    logger.set_log_level(LogLevel.DEBUG)
    logger.debug("A", "2")
    logger.set_log_level(LogLevel.ERROR)
    logger.warn("A", "3")
    logger.set_log_level(LogLevel.OFF)
    logger.fatal("A", "4")
    assert capsys.readouterr() == ("A | 2\n", "")
    assert not logger.get_namespace("x").should_log(LogLevel.FATAL)
    for unknown in (7, "loud"):
        with pytest.raises(ValueError):
            logger.set_log_level(unknown)


def test_levels_have_names(services, capsys):
    logger = make_logger(services)
    logger.set_log_level("Error")
    logger.warn("A", "1")
    logger.error("A", "2")
    assert capsys.readouterr() == ("", "A | 2\n")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_colours_only_on_a_terminal_and_only_if_wanted(services, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    make_logger(services).info("A", "b")
    make_logger(services, colors=False).info("A", "b")
    assert sys.stdout.getvalue() == "\x1b[32mA | b\x1b[0m\nA | b\n"


def test_a_client_cannot_forge_lines_or_drive_the_terminal(services, capsys):
    logger = make_logger(services)
    logger.info("A", "x\nFATAL | y\r\x1b[2J\u2028\ud800")
    logger.info("A", "x\n\tFATAL | y\u202e")
    logger.info("A", "x\n\t0) kept")
    assert capsys.readouterr().out.split("\nA") == [
        "A | x\\nFATAL | y\\r\\x1b[2J\\u2028\\ud800",
        " | x\\n\tFATAL | y\\u202e",
        " | x\n\t0) kept\n",
    ]


def test_long_lines_are_cut(services, capsys):
    make_logger(services).info("A", "x" * 100_000)
    out = capsys.readouterr().out
    assert len(out) < 10_000
    assert out.endswith("... (100004 characters)\n")


class Broken(io.StringIO):
    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError


def test_a_closed_pipe_loses_the_line_and_nothing_else(services, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken())
    make_logger(services).info("A", "b")


class Recorder(Monitoring):
    def init(self):
        self.lines = []

    def on_error_log(self, level, event, message, meta):
        self.lines.append((level, event, message, meta))


def with_monitoring(services, kind):
    services.monitoring = kind({}, services, load())
    services.monitoring.init()
    return services.monitoring


@pytest.mark.parametrize("kind", [DefaultLogger, JsonLogger])
def test_warnings_and_errors_reach_monitoring_whatever_the_level(services, kind, capsys):
    logger = make_logger(services, kind)
    logger.warn("EARLY", "there is no monitoring yet")
    recorder = with_monitoring(services, Recorder)
    logger.set_log_level(LogLevel.OFF)
    logger.info("I", "not reported")
    logger.warn("W", "a")
    logger.get_namespace("N").error("E", "b")
    assert recorder.lines == [
        (LogLevel.WARN, "W", "a", None),
        (LogLevel.ERROR, "E", "b", {"namespace": "N"}),
    ]


def test_a_failing_monitoring_is_logged_and_not_asked_about_that_line(services, capsys):
    class Failing(Monitoring):
        def on_error_log(self, level, event, message, meta):
            raise RuntimeError("no")

    logger = make_logger(services)
    with_monitoring(services, Failing)
    logger.warn("W", "a")
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "W | a"
    assert err[1].startswith("PLUGIN_ERROR | monitoring failed")
    assert len(err) == 2


@pytest.mark.parametrize("kind", [DefaultLogger, JsonLogger])
def test_fatal_tells_the_server_once(services, fatal_calls, kind, capsys):
    logger = make_logger(services, kind)
    logger.fatal("F", "a")
    logger.get_namespace("N").fatal("F", "b")
    assert fatal_calls == [1]


def test_a_failing_logger_is_contained(services, capsys):
    class Failing(Logger):
        def log(self, level, event, message, meta=None):
            raise RuntimeError("disk full")

    make_logger(services, Failing).info("A", "b\nc")
    err = capsys.readouterr().err
    assert "disk full" in err
    assert err.count("\n") == 1


class Lines(Logger):
    """Keeps the lines."""

    def init(self):
        self.lines = []

    def log(self, level, event, message, meta=None):
        self.lines.append(f"{LogLevel(level).name} {event} {message}")


@pytest.fixture
def lines(services):
    logger = make_logger(services, Lines)
    logger.init()
    return logger


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_repeated_lines_of_one_client_are_counted_and_summed_up(lines):
    clock = Clock()
    guard = FloodGuard(lines, limit=2, interval=1000, clock=clock)
    for _ in range(5):
        guard.warn("peter", "E", "bad")
    guard.warn("mary", "E", "bad")
    guard.error("peter", "F", "worse")
    assert lines.lines == ["WARN E bad", "WARN E bad", "WARN E bad", "ERROR F worse"]
    clock.now = 1.0
    guard.flush()
    assert lines.lines[4:] == ["WARN E 3 more of these from peter in the last 1 s"]
    guard.warn("peter", "E", "again")
    assert lines.lines[5:] == ["WARN E again"]


def test_the_sum_comes_before_the_next_line_of_that_client(lines):
    clock = Clock()
    guard = FloodGuard(lines, limit=1, interval=1000, clock=clock)
    guard.info("peter", "E", "1")
    guard.info("peter", "E", "2")
    clock.now = 5.0
    guard.info("peter", "E", "3")
    assert lines.lines == ["INFO E 1", "INFO E 1 more of these from peter in the last 1 s", "INFO E 3"]


def test_closing_sums_up(lines):
    guard = FloodGuard(lines, limit=1)
    guard.error("peter", "E", "1")
    guard.error("peter", "E", "2")
    guard.close()
    assert lines.lines == ["ERROR E 1", "ERROR E 1 more of these from peter in the last 10 s"]


def test_memory_stays_bounded_with_many_clients(lines):
    guard = FloodGuard(lines, limit=1, max_sources=3)
    for number in range(1000):
        guard.warn(number, "E", "x")
    guard.close()
    assert lines.lines == ["WARN E x"] * 4 + ["WARN E 996 more of these from other clients in the last 10 s"]


async def test_in_an_event_loop_the_sum_comes_by_itself(lines):
    guard = FloodGuard(lines, limit=1, interval=1)
    summed_up = asyncio.Event()
    original = lines.log

    def log(level, event, message, meta=None):
        original(level, event, message, meta)
        if "more of these" in message:
            summed_up.set()

    lines.log = log
    guard.warn("peter", "E", "1")
    guard.warn("peter", "E", "2")
    await asyncio.wait_for(summed_up.wait(), 10)
    guard.close()
