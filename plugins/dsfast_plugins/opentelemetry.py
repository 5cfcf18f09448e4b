"""The log as OpenTelemetry records, sent by OTLP over HTTP.

The messages are those of ``opentelemetry-proto``; sending them is a POST, for which the server has a client
already. The SDK is not used: its logging is still called unstable, and it brings threads of its own.
"""

from __future__ import annotations

import gzip
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

try:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
    )
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
except ModuleNotFoundError as error:
    raise ImportError(f"this logger needs: pip install dsfast[opentelemetry] ({error})") from error

import dsfast
from dsfast.plugin import Logger, LogLevel
from dsfast.services.authentication.web_client import WebClient, WebError, shown_url
from dsfast.services.logger import DefaultLogger
from dsfast.services.logger.metadata import MetadataCleaner, plain_text
from dsfast_plugins.delivery import Delivery, DeliveryRefused, NotDelivered
from dsfast_plugins.options import Milliseconds, OptionError, Options, Positive, read_options

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["OpenTelemetryLogger"]

Text = Annotated[str, Meta(min_length=1)]

MAX_ANSWER = 1 << 20
# OTLP section "Failures": these are worth another attempt, everything else is not.
_RETRIED = frozenset({429, 502, 503, 504})
# Severity numbers of the log data model.
_SEVERITY = {
    LogLevel.DEBUG: 5,
    LogLevel.INFO: 9,
    LogLevel.WARN: 13,
    LogLevel.ERROR: 17,
    LogLevel.FATAL: 21,
}


class OpenTelemetryOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/logger.md."""

    endpoint: Text = "http://localhost:4318/v1/logs"
    headers: dict[str, str] = {}
    service_name: Text = "dsfast"
    resource: dict[Text, str] = {}
    compression: Literal["none", "gzip"] = "gzip"
    console: bool = True
    colors: bool = True
    redact: tuple[str, ...] = ()
    timeout: Milliseconds = 10_000
    interval: Milliseconds = 1000
    retry_interval: Milliseconds = 1000
    max_batch: Annotated[int, Meta(ge=1, le=10_000)] = 512
    max_waiting: Positive = 20_000


class OpenTelemetryLogger(Logger):
    """Sends each line to a collector; with ``console`` it is written to the standard streams too.

    A collector that is away loses nothing until ``maxWaiting`` lines wait. Trouble with it is told on the
    console only.
    """

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        given, self._warnings = read_options(OpenTelemetryOptions, options, known=("logLevel",))
        if not given.endpoint.lower().startswith(("http://", "https://")):
            raise OptionError("option endpoint: expected a URL that begins with http:// or https://")
        self._given = given
        self._console = DefaultLogger({"colors": given.colors}, services, config)
        self._cleaner = MetadataCleaner(given.redact)
        self._client = WebClient(timeout=given.timeout, max_size=MAX_ANSWER)
        self._delivery: Delivery[LogRecord] = Delivery(
            self._post, self._report, max_waiting=given.max_waiting, max_batch=given.max_batch, tries=None,
            pause=given.retry_interval, interval=given.interval,
        )  # fmt: skip
        self._resource = Resource(
            attributes=[
                _attribute("service.name", given.service_name),
                _attribute("service.version", dsfast.__version__),
                _attribute("service.instance.id", config.server_name),
                _attribute("host.name", socket.gethostname()),
                _attribute("process.pid", os.getpid()),
                *(_attribute(key, value) for key, value in given.resource.items()),
            ]
        )
        self.description = f"OpenTelemetry logs to {shown_url(given.endpoint)}"

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            if "logLevel" not in warning:
                self.warn("INVALID_CONFIG_DATA", f"OpenTelemetry logger: {warning}")

    async def when_ready(self) -> None:
        """Begin. Whether the collector is there does not matter yet."""
        self._delivery.start()

    async def close(self) -> None:
        """Send what waits, if the collector takes it at once."""
        try:
            await self._delivery.close()
        finally:
            await self._client.close()
            await self._console.close()

    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        """Queue one line."""
        if self._given.console:
            self._console.log(level, event, message, meta)
        attributes = [_attribute("event.name", plain_text(event))]
        if meta:
            attributes += [_attribute(key, value) for key, value in self._cleaner.clean(meta).items()]
        now = time.time_ns()
        name = LogLevel(level)
        self._delivery.put(
            LogRecord(
                time_unix_nano=now,
                observed_time_unix_nano=now,
                severity_number=_SEVERITY.get(name, 9),  # type: ignore[arg-type]
                severity_text=name.name,
                body=AnyValue(string_value=plain_text(message)),
                attributes=attributes,
            )
        )

    async def _post(self, batch: Sequence[LogRecord]) -> None:
        scope = ScopeLogs(log_records=batch)
        scope.scope.name = "dsfast"
        request = ExportLogsServiceRequest(
            resource_logs=[ResourceLogs(resource=self._resource, scope_logs=[scope])]
        )
        body = request.SerializeToString()
        headers = {"Content-Type": "application/x-protobuf", **self._given.headers}
        if self._given.compression == "gzip":
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
        try:
            answer = await self._client.request("POST", self._given.endpoint, body=body, headers=headers)
        except WebError as error:
            raise NotDelivered(str(error)) from None
        if answer.status in _RETRIED:
            raise NotDelivered(f"answered with status {answer.status}")
        if not 200 <= answer.status <= 299:
            raise DeliveryRefused(f"answered with status {answer.status}")
        self._look_for_rejected(answer.body)

    def _look_for_rejected(self, body: bytes) -> None:
        """A collector may take a batch and leave some of it out."""
        try:
            partial = ExportLogsServiceResponse.FromString(body).partial_success
        except Exception:
            return  # some answer in another form: they have taken it all
        if partial.rejected_log_records:
            text = plain_text(partial.error_message)
            self._report(f"{partial.rejected_log_records} lines were rejected: {text}", True)

    def _report(self, text: str, trouble: bool) -> None:
        level = LogLevel.WARN if trouble else LogLevel.INFO
        self._console.log(level, "OPENTELEMETRY", f"{self.description}: {text}")
        if trouble:
            self.services.report_log(level, "OPENTELEMETRY", text, None)


def _attribute(key: str, value: Any) -> KeyValue:
    return KeyValue(key=key, value=_any(value))


def _any(value: Any) -> AnyValue:
    """A plain value, as :class:`MetadataCleaner` leaves it, in OTLP's form."""
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value) if value < 2**63 else AnyValue(string_value=str(value))
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, Mapping):
        return AnyValue(kvlist_value=KeyValueList(values=[_attribute(*item) for item in value.items()]))
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[_any(entry) for entry in value]))
    return AnyValue() if value is None else AnyValue(string_value=str(value))
