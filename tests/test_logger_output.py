"""A log that nobody reads: the server goes on, what fits is kept, what was lost is told."""

import asyncio
import io
import os
import select
import sys

import pytest

from dsfast.config import load
from dsfast.services import Services
from dsfast.services.logger import DefaultLogger
from dsfast.services.logger.output import MAX_WAITING

LOST = "LOG_LINES_LOST | "


class Reader:
    """The other end of a pipe or a terminal that is the standard output; reads only when it is asked to."""

    def __init__(self, read_end, write_end):
        self.read_end = read_end
        self.stream = io.TextIOWrapper(open(write_end, "wb", 0), "utf-8", write_through=True)  # noqa: SIM115

    def read(self):
        """What is there now."""
        parts = []
        while select.select([self.read_end], [], [], 0)[0]:
            part = os.read(self.read_end, 1 << 16)
            if not part:
                break
            parts.append(part)
        return b"".join(parts).decode()

    def close(self):
        self.stream.close()
        os.close(self.read_end)


@pytest.fixture(params=["pipe", "terminal"])
def reader(request):
    reader = Reader(*(os.pipe() if request.param == "pipe" else os.openpty()))
    yield reader
    reader.close()


def log_to(stream, monkeypatch):
    """A logger, with this as the standard output (in the test: pytest has its own until then)."""
    monkeypatch.setattr(sys, "stdout", stream)
    services = Services()
    services.logger = DefaultLogger({"colors": False}, services, load())
    return services.logger


def fill(logger, size):
    """Log this many bytes; returns the texts."""
    texts = [f"{number:06d} {'x' * 992}" for number in range(size // 1000)]
    for text in texts:
        logger.info("E", text)
    return texts


def texts_of(output):
    return [line.removeprefix("E | ") for line in output.replace("\r", "").splitlines()]


def same(got, expected):
    """Equality, without a megabyte of explanation when there is none."""
    return [text[:6] for text in got] == [text[:6] for text in expected] and got == expected


async def drained(reader, until):
    """Everything that comes until this text has come, by the attempts that the logger makes by itself."""
    output = ""
    async with asyncio.timeout(20):
        while until not in output or not output.endswith("\n"):
            output += reader.read()
            await asyncio.sleep(0.01)
    return output


async def test_what_nobody_reads_waits_and_comes_later(reader, monkeypatch):
    logger = log_to(reader.stream, monkeypatch)
    texts = fill(logger, MAX_WAITING // 2)
    assert same(texts_of(await drained(reader, texts[-1])), texts)


async def test_beyond_the_limit_lines_are_lost_and_counted(reader, monkeypatch):
    logger = log_to(reader.stream, monkeypatch)
    texts = fill(logger, 3 * MAX_WAITING)
    output = texts_of(await drained(reader, LOST))
    kept = [text for text in output if not text.startswith(LOST)]
    assert same(kept, texts[: len(kept)])
    assert len(kept) >= MAX_WAITING // 1001
    assert (
        output[-1] == f"{LOST}{len(texts) - len(kept)} log lines were lost because nobody read them in time"
    )
    logger.info("E", "again")
    assert texts_of(reader.read()) == ["again"]


def test_without_an_event_loop_the_next_line_brings_what_waits(reader, monkeypatch):
    logger = log_to(reader.stream, monkeypatch)
    texts = fill(logger, MAX_WAITING // 8)
    output = reader.read()
    while texts[-1] not in output:
        logger.info("E", "next")
        output += reader.read()
    assert same(texts_of(output)[: len(texts)], texts)


def test_closing_and_fatal_lines_do_not_wait_for_ever(reader, monkeypatch):
    logger = log_to(reader.stream, monkeypatch)
    fill(logger, MAX_WAITING // 2)
    logger.fatal("E", "the end")
    asyncio.run(logger.close())


async def test_a_reader_that_goes_away_loses_the_lines_and_nothing_else(monkeypatch):
    reader = Reader(*os.pipe())
    logger = log_to(reader.stream, monkeypatch)
    fill(logger, MAX_WAITING // 2)
    os.close(reader.read_end)
    fill(logger, 3 * MAX_WAITING)
    await logger.close()
    reader.stream.close()
    logger.info("E", "the stream is closed")


def test_without_a_stream_nothing_happens(monkeypatch):
    log_to(None, monkeypatch).info("E", "lost")


def test_a_file_gets_everything(monkeypatch, tmp_path):
    with (tmp_path / "log").open("w") as file:
        logger = log_to(file, monkeypatch)
        texts = fill(logger, 3 * MAX_WAITING)
    assert same(texts_of((tmp_path / "log").read_text()), texts)
