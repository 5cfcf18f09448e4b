"""Monitoring for Prometheus: the counters of the core as text, at a path of the port."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import os
import resource
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

import dsfast
from dsfast.plugin import HttpError, HttpMeta, LogLevel, Monitoring, PluginError
from dsfast.protocol import (
    AuthAction,
    ConnectionAction,
    EventAction,
    ParserAction,
    PresenceAction,
    RecordAction,
    RpcAction,
    Topic,
)
from dsfast_plugins.options import Milliseconds, Options, read_options

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["Family", "PrometheusMonitoring", "exposition"]

Labels = Mapping[str, str]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

LAG_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds."""
MAX_EVENTS = 500
"""Names of log events that are counted apart; plugins make up their own."""
UNKNOWN = "UNKNOWN"

_ACTIONS: dict[int, type[IntEnum]] = {
    Topic.PARSER: ParserAction,
    Topic.CONNECTION: ConnectionAction,
    Topic.AUTH: AuthAction,
    Topic.EVENT: EventAction,
    Topic.RECORD: RecordAction,
    Topic.RPC: RpcAction,
    Topic.PRESENCE: PresenceAction,
}
# Deepstream's own names of two registries, which are there under their right names too.
_ALIASES = ("STATE_REGISTRY", "LOCK")


class PrometheusOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/monitoring.md."""

    path: Annotated[str, Meta(pattern="^/[^?#]*[^/?#]$")] = "/metrics"
    token: Annotated[str, Meta(min_length=16)] | None = None
    lag_interval: Milliseconds = 100


@dataclass
class Histogram:
    """How many values were at most as large as each bound; the last count is of those beyond all bounds."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass
class Family:
    """One metric: its name without ``_total``, its kind, and a value for each set of labels."""

    name: str
    kind: str
    help: str
    samples: list[tuple[Labels, float | Histogram]] = field(default_factory=list)

    @classmethod
    def single(cls, name: str, kind: str, text: str, value: float | Histogram) -> Family:
        """A metric without labels."""
        return cls(name, kind, text, [({}, value)])


class PrometheusMonitoring(Monitoring):
    """Answers ``GET /metrics``, as OpenMetrics if that is asked for.

    Counters count from the start of the server and are never reset. A scrape reads them; messages cost
    nothing more than without this plugin.
    """

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._given, self._warnings = read_options(PrometheusOptions, options)
        self._logins: Counter[tuple[str, str]] = Counter()
        self._events: Counter[tuple[str, str]] = Counter()
        self._lag = Histogram(LAG_BUCKETS)
        self._probe: asyncio.TimerHandle | None = None
        self._started = time.time()
        self.description = f"prometheus metrics on {self._given.path}"

    async def when_ready(self) -> None:
        """Register the path. Raises :class:`PluginError` if it is taken."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"prometheus monitoring: {warning}")
        try:
            self.services.http_service.register_get_path_prefix(self._given.path, self._answer)
        except ValueError as error:
            raise PluginError(f"option path: {error}") from None
        self._look_again(asyncio.get_running_loop())

    async def close(self) -> None:
        """End the probe."""
        if self._probe is not None:
            self._probe.cancel()

    def on_error_log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None) -> None:
        """See :class:`dsfast.Monitoring`."""
        key = (LogLevel(level).name.lower(), event)
        if key not in self._events and len(self._events) >= MAX_EVENTS:
            key = (key[0], UNKNOWN)
        self._events[key] += 1

    def on_login(self, allowed: bool, endpoint_type: str) -> None:
        """See :class:`dsfast.Monitoring`."""
        self._logins[endpoint_type, "allowed" if allowed else "declined"] += 1

    # ---- the event loop

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._given.lag_interval / 1000
        self._probe = loop.call_at(due, self._measure, loop, due)

    def _measure(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        """Everything that was ready at this time has waited for as long as this call."""
        self._lag.observe(max(0.0, loop.time() - due))
        self._look_again(loop)

    # ---- the answer

    def _answer(self, meta: HttpMeta) -> Any:
        if meta.url.partition("?")[0] != self._given.path:
            raise HttpError(404, "Endpoint not found.")
        if self._given.token is not None:
            scheme, _, token = meta.headers.get("authorization", "").partition(" ")
            given, known = _digest(token.strip()), _digest(self._given.token)
            if not hmac.compare_digest(given, known) or scheme.lower() != "bearer":
                raise HttpError(401, "a token is needed")
        is_open = "application/openmetrics-text" in meta.headers.get("accept", "")
        text = exposition(self.families(), open_metrics=is_open)
        return 200, {"Content-Type": OPEN_METRICS if is_open else TEXT}, text.encode()

    def families(self) -> Iterator[Family]:
        """All metrics, with the values of this moment."""
        yield Family(
            "dsfast_info", "gauge", "Version and name of this server; always 1.",
            [({"version": dsfast.__version__, "server": self.config.server_name}, 1)],
        )  # fmt: skip
        yield from self._of_messages()
        yield from self._of_connections()
        yield from self._of_records()
        yield Family.single("dsfast_event_loop_lag_seconds", "histogram",
                            "How much later than due the event loop came to a timer: "
                            "what everything that waits for it waits.", self._lag)  # fmt: skip
        yield Family(
            "dsfast_log_events", "counter", "Log lines of level WARN and above, written or not.",
            [({"level": level, "event": event}, count) for (level, event), count in self._events.items()],
        )  # fmt: skip
        yield from _of_process(self._started)

    def _of_messages(self) -> Iterator[Family]:
        router = self.services.message_distributor
        hub = router.hub
        received, sent = hub.message_counts()
        yield Family(
            "dsfast_messages_received", "counter", "Permitted messages of clients.", _named(received)
        )
        yield Family("dsfast_messages_sent", "counter", "Messages to clients; a broadcast counts for each.",
                     _named(sent))  # fmt: skip
        stats = router.stats()["hub"]
        for name, text in (
            ("broadcasts", "Messages that were sent to the subscribers of a name."),
            ("bytes_out", "Bytes handed to the operating system."),
            ("writes", "System calls that hand over bytes."),
            ("slow_closed", "Connections closed because their client did not read."),
            ("conflations", "Record updates left out for slow clients, since newer ones came."),
        ):
            yield Family.single(f"dsfast_{name}", "counter", text, stats[name])
        for name, text, unit in (
            ("fan_out", "Subscribers of each message that was broadcast.", 1.0),
            ("turn_seconds", "From the first message of a turn of the event loop to its last write.", 1e-6),
        ):
            counts, total = hub.histogram(name)
            bounds = [unit * 2**i for i in range(len(counts) - 1)]
            yield Family.single(f"dsfast_{name}", "histogram", text, Histogram(bounds, counts, unit * total))

    def _of_connections(self) -> Iterator[Family]:
        endpoints: dict[str, Mapping[str, int]] = {}
        # Endpoints on one port share its connections.
        port = getattr(self.services.http_service, "core", None)
        listeners = {id(port.connections): ("port", len(port.connections))} if port is not None else {}
        for index, endpoint in enumerate(self.services.connection_endpoints):
            core = getattr(endpoint, "core", None)
            if core is not None and hasattr(core, "stats"):
                name = endpoint.description or type(endpoint).__name__
                name = name if name not in endpoints else f"{name} {index}"
                endpoints[name] = core.stats()
                listeners.setdefault(id(core.connections), (name, len(core.connections)))
        yield Family(
            "dsfast_connections", "gauge", "Open connections, whether they have logged in or not.",
            [({"listener": name}, count) for name, count in listeners.values()],
        )  # fmt: skip
        for key, metric, text in (
            ("logins", "endpoint_logins", "Clients that have logged in."),
            ("bad_messages", "bad_messages", "Messages that made no sense."),
        ):
            yield Family(
                f"dsfast_{metric}", "counter", text,
                [({"endpoint": name}, values[key]) for name, values in endpoints.items() if key in values],
            )  # fmt: skip
        yield Family(
            "dsfast_logins", "counter", "Answered logins, as they were reported to monitoring.",
            [
                ({"endpoint": endpoint, "result": result}, count)
                for (endpoint, result), count in self._logins.items()
            ],
        )  # fmt: skip

    def _of_records(self) -> Iterator[Family]:
        router = self.services.message_distributor
        yield Family(
            "dsfast_names", "gauge", "Names that each registry holds: subscriptions, patterns, users.",
            [
                ({"registry": registry}, count)
                for registry, count in router.state_metrics().items()
                if registry not in _ALIASES
            ],
        )  # fmt: skip
        rpc = router.handlers[Topic.RPC]
        yield Family.single("dsfast_rpc_open_calls", "gauge", "Calls that wait for an answer.",
                            0 if rpc is None else rpc.open_calls)  # fmt: skip
        cache = router.stats().get("cache", {})
        for key, kind, text in (
            ("entries", "gauge", "Records in the memory cache."),
            ("bytes", "gauge", "Bytes that the memory cache uses."),
            ("hits", "counter", "Reads that found their record in the memory cache."),
            ("misses", "counter", "Reads that did not."),
            ("evictions", "counter", "Records that had to make room."),
        ):
            if key in cache:
                yield Family.single(f"dsfast_cache_{key}", kind, text, cache[key])
        writer = self.services.storage_writer
        if writer is not None:
            yield Family.single("dsfast_storage_pending", "gauge", "Writes that are not in the storage yet.",
                                writer.pending)  # fmt: skip
            yield Family.single("dsfast_storage_pending_bytes", "gauge", "Their size.", writer.pending_bytes)
            yield Family.single("dsfast_storage_degraded", "gauge", "1 while writes fail and are retried.",
                                int(writer.degraded))  # fmt: skip


def exposition(families: Iterable[Family], *, open_metrics: bool) -> str:
    """The metrics as text, in the format of Prometheus or in that of OpenMetrics."""
    lines: list[str] = []
    for family in families:
        total = f"{family.name}_total" if family.kind == "counter" else family.name
        named = family.name if open_metrics else total
        lines.append(f"# HELP {named} {_escaped(family.help)}")
        lines.append(f"# TYPE {named} {family.kind}")
        for labels, value in family.samples:
            if isinstance(value, Histogram):
                lines += _histogram_lines(family.name, labels, value)
            else:
                lines.append(f"{total}{_label_text(labels)} {_number(value)}")
    if open_metrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _histogram_lines(name: str, labels: Labels, value: Histogram) -> Iterator[str]:
    so_far = 0
    for bound, count in zip((*value.bounds, math.inf), value.counts, strict=True):
        so_far += count
        edge = "+Inf" if bound == math.inf else _number(float(bound))
        yield f"{name}_bucket{_label_text({**labels, 'le': edge})} {so_far}"
    yield f"{name}_count{_label_text(labels)} {so_far}"
    yield f"{name}_sum{_label_text(labels)} {_number(value.sum)}"


def _label_text(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(text, quotes=True)}"' for key, text in labels.items()) + "}"


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.encode("utf-8", "replace").decode().replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    return repr(value)


def _named(counts: Mapping[tuple[int, int], int]) -> list[tuple[Labels, float | Histogram]]:
    """The core's counts by the names of topics and actions."""
    named: Counter[tuple[str, str]] = Counter()
    for (topic, action), count in counts.items():
        named[_name(Topic, topic), _name(_ACTIONS.get(topic, ()), action)] += count
    return [({"topic": topic, "action": action}, count) for (topic, action), count in named.items()]


def _name(names: Iterable[IntEnum], number: int) -> str:
    return next((member.name for member in names if member == number), UNKNOWN)


def _of_process(started: float) -> Iterator[Family]:
    """What every exporter tells, under the names that every dashboard expects."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield Family.single("process_cpu_seconds", "counter", "Processor time of the process.",
                        usage.ru_utime + usage.ru_stime)  # fmt: skip
    yield Family.single("process_start_time_seconds", "gauge", "Start of the server, since 1970.", started)
    readers: tuple[tuple[str, str, Callable[[], float]], ...] = (
        ("process_resident_memory_bytes", "Resident memory.", _resident),
        ("process_open_fds", "Open file descriptors.", lambda: len(os.listdir("/proc/self/fd"))),
    )
    for name, text, read in readers:
        try:
            value = read()
        except (OSError, ValueError, IndexError):
            continue  # another operating system
        yield Family.single(name, "gauge", text, value)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
