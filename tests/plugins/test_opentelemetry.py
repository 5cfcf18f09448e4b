"""The log at a collector of OpenTelemetry: what it gets, and what happens while it is away."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest
from aiohttp import web

pytest.importorskip("opentelemetry.proto")

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from dsfast import Server
from dsfast.config import load
from dsfast.plugin import Monitoring
from dsfast.services import Services
from dsfast.testing import FaultProxy, plugin_services
from dsfast_plugins.opentelemetry import OpenTelemetryLogger
from dsfast_plugins.options import OptionError
from tests.plugins.receiver import Posted, Receiver
from tests.wire import Client

loops = ["uvloop"]


@pytest.fixture
async def collector():
    async with Receiver() as receiver:
        yield receiver


async def started(url: str, level: Any = "debug", **options: Any) -> OpenTelemetryLogger:
    services = Services()
    given = {"endpoint": url, "console": False, "interval": 1, "retryInterval": 1, **options}
    logger = OpenTelemetryLogger(given, services, load({"serverName": "one"}))
    services.logger = logger
    logger.init()
    logger.set_log_level(level)
    await logger.when_ready()
    return logger


def parsed(posted: Posted) -> ExportLogsServiceRequest:
    assert posted.headers["Content-Type"] == "application/x-protobuf"
    packed = posted.headers.get("Content-Encoding") == "gzip"
    return ExportLogsServiceRequest.FromString(gzip.decompress(posted.body) if packed else posted.body)


def records(collector: Receiver) -> list[Any]:
    return [
        record
        for posted in collector.requests
        for resource in parsed(posted).resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def plain(value: Any) -> Any:
    """A value of OTLP as one of Python."""
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return {entry.key: plain(entry.value) for entry in value.kvlist_value.values}
    if kind == "array_value":
        return [plain(entry) for entry in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def attributes(record: Any) -> dict[str, Any]:
    return {entry.key: plain(entry.value) for entry in record.attributes}


@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_what_the_collector_gets(collector: Receiver, compression: str) -> None:
    logger = await started(
        collector.url, compression=compression, headers={"x-key": "k"}, resource={"deployment": "test"}
    )
    meta = {
        "n": 1,
        "f": 0.5,
        "yes": True,
        "none": None,
        "list": [1, "a"],
        "in": {"password": "x"},
        "big": 2**63,
    }
    logger.get_namespace("PART").debug("A", "first \ud800", meta)
    logger.error("B", "x" * 10_000, {"thing": object()})
    await logger.close()
    first, second = records(collector)
    assert (first.severity_number, first.severity_text, first.body.string_value) == (
        5,
        "DEBUG",
        "first \\ud800",
    )
    assert attributes(first) == {
        "event.name": "A", "namespace": "PART", "n": 1, "f": 0.5, "yes": True, "none": None, "list": [1, "a"],
        "in": {"password": "[Redacted]"}, "big": str(2**63),
    }  # fmt: skip
    assert (second.severity_number, second.severity_text) == (17, "ERROR")
    assert second.body.string_value.endswith("... (10000 characters)")
    assert attributes(second)["thing"] == "[object]"
    assert first.time_unix_nano <= second.time_unix_nano
    resource = attributes(parsed(collector.requests[0]).resource_logs[0].resource)
    assert (resource["service.name"], resource["service.instance.id"]) == ("dsfast", "one")
    assert resource["deployment"] == "test"
    assert collector.requests[0].headers["x-key"] == "k"


async def test_batches(collector: Receiver) -> None:
    logger = await started(collector.url, maxBatch=10, interval=60_000)
    for number in range(25):
        logger.info("A", str(number))
    await logger.close()
    assert [record.body.string_value for record in records(collector)] == [str(n) for n in range(25)]
    batches = [parsed(posted).resource_logs[0].scope_logs[0].log_records for posted in collector.requests]
    assert [len(batch) for batch in batches] == [10, 10, 5]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_collector_that_has_no_time_is_asked_again(
    collector: Receiver, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    collector.answers.append(status)
    logger = await started(collector.url)
    logger.info("A", "once")
    await collector.wait_for(2)
    await logger.close()
    assert [record.body.string_value for record in records(collector)] == ["once", "once"]
    written = capsys.readouterr()
    assert f"answered with status {status}" in written.err
    assert "delivers again" in written.out


@pytest.mark.parametrize("status", [301, 400, 401, 500])
async def test_a_refused_batch_is_lost_and_told(
    collector: Receiver, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    collector.answers.append(status)
    logger = await started(collector.url)
    logger.info("A", "lost")
    await collector.wait_for(1)
    logger.info("A", "kept")
    await logger.close()
    written = capsys.readouterr()
    assert f"answered with status {status}" in written.err
    assert "1 were lost" in written.out


async def test_lines_that_a_collector_left_out_are_told(
    collector: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = 3
    answer.partial_success.error_message = "too old"
    collector.answers.append(web.Response(body=answer.SerializeToString()))
    logger = await started(collector.url)
    logger.info("A")
    await logger.close()
    assert "3 lines were rejected: too old" in capsys.readouterr().err


class Told(Monitoring):
    """Trouble with the collector is reported to monitoring."""

    def __init__(self, event: asyncio.Event, logger: OpenTelemetryLogger) -> None:
        super().__init__({}, logger.services, logger.config)
        self._event = event

    def on_error_log(self, level: int, event: str, message: str, meta: Any) -> None:
        self._event.set()


async def test_a_collector_that_comes_late_and_is_cut_off_in_between(
    collector: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FaultProxy("127.0.0.1", collector.port) as proxy:
        await proxy.stop()
        logger = await started(f"http://127.0.0.1:{proxy.port}/v1/logs", timeout=1000)
        told = asyncio.Event()
        logger.services.monitoring = Told(told, logger)
        logger.info("A", "1")
        await told.wait()
        await proxy.restart()
        await collector.wait_for(1)
        proxy.cut()
        logger.info("A", "2")
        await collector.wait_for(2)
        await logger.close()
    texts = [record.body.string_value for record in records(collector)]
    assert sorted(set(texts)) == ["1", "2"]
    assert capsys.readouterr().err.count("OPENTELEMETRY") >= 1


async def test_memory_is_bounded_while_the_collector_hangs(
    collector: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    collector.open.clear()
    logger = await started(collector.url, maxWaiting=50, maxBatch=10)
    for number in range(1000):
        logger.info("A", str(number))
    await collector.wait_for(1)
    assert logger._delivery.waiting == 50
    collector.open.set()
    await logger.close()
    assert len(records(collector)) == 50
    assert "950 were lost" in capsys.readouterr().out


async def test_the_console_too(collector: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    logger = await started(collector.url, console=True, colors=False)
    logger.info("A", "text")
    await logger.close()
    assert capsys.readouterr().out == "A | text\n"
    assert len(records(collector)) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"endpoint": "localhost:4318"}, "option endpoint: expected a URL"),
        ({"endpoint": 5}, "option endpoint: expected str, got int"),
        ({"headers": {"a": 1}}, "option headers: .*expected str, got int"),
        ({"compression": "lz4"}, "option compression: invalid enum value 'lz4'"),
        ({"maxBatch": 0}, "option maxBatch: expected int >= 1"),
        ({"interval": "soon"}, "option interval: expected int, got str"),
    ],
)
async def test_wrong_options(options: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        OpenTelemetryLogger(options, plugin_services(), load())


async def test_in_a_server(collector: Receiver) -> None:
    options = {"endpoint": collector.url, "console": False, "logLevel": "info", "intervall": 5}
    server = Server(
        {
            "httpServer": {"options": {"host": "127.0.0.1", "port": 0}},
            "connectionEndpoints": [{"type": "ws-binary"}],
            "storage": {"type": "none"},
            "logger": {"class": OpenTelemetryLogger, "options": options},
        }
    )
    await server.start()
    client = await Client.login(server.get_services().http_service.addresses[0][1])
    await client.close()
    await server.stop()
    lines = [(attributes(record)["event.name"], record.body.string_value) for record in records(collector)]
    assert ("INFO", "Deepstream started") in lines
    assert ("AUTH_SUCCESSFUL", "open") in lines
    assert ("INFO", f"logger ready: OpenTelemetry logs to {collector.url}") in lines
    assert any(event == "INVALID_CONFIG_DATA" and "intervall" in text for event, text in lines)
