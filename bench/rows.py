"""The table: what is measured, with whom, and what is wanted.

Figures wanted are those of the design (absolute, per core) or of the project's first milestone
(as a multiple of upstream in the same run).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["rate", "memory", "latency"]
EVERYBODY = ("dsfast", "upstream", "nats", "redis", "mosquitto", "broadcaster")

NO_RECORDS = "no such thing there"
NO_LOGIN = "no login to compare"
NO_RULES = "no such rules there"
NO_MQTT = "not for this row"


@dataclass(frozen=True)
class Target:
    """What dsfast must reach at least and should aim at."""

    at_least: float
    aim: float | None = None
    times_upstream: bool = False
    """The numbers are multiples of upstream's figure in the same run."""
    times_mosquitto: bool = False
    """They are multiples of mosquitto's."""

    @property
    def of(self) -> str:
        """The peer whose figure the numbers are multiples of, or nothing."""
        return "upstream" if self.times_upstream else "mosquitto" if self.times_mosquitto else ""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    key: str
    group: str
    title: str
    scenario: str
    options: dict[str, int | float | str] = field(default_factory=dict)
    """Options of the load generator."""
    unit: str = "deliveries/s"
    kind: Kind = "rate"
    target: Target | None = None
    storage: bool = False
    """Start dsfast with SQLite, durability full."""
    rules: bool = False
    """Start with permission rules, see peers.RULES."""
    tls: bool = False
    """With TLS, on an elliptic curve (P-256)."""
    protocol: str = ""
    """What is spoken with dsfast, if not its binary protocol."""
    absent: dict[str, str] = field(default_factory=dict)
    """Peers that cannot do it, with the reason."""
    windows: tuple[int, ...] = ()
    """Windows to choose from, for each peer: the first that leaves its core, or the generator's, no time."""

    def options_of(self, quick: bool) -> dict[str, int | float | str]:
        """The generator's options, cut down for a smoke run."""
        options = dict(self.options)
        if quick:
            if self.scenario == "logins":
                options["count"] = 300
            if self.scenario == "rate":
                options["rate"] = 1000
            if self.scenario == "presence":
                options["subscribers"] = 50
        return options

    @property
    def lower_is_better(self) -> bool:
        """Whether a small figure is a good one."""
        return self.kind != "rate"


def _event(key: str, title: str, at_least: float, aim: float, **options: int | float | str) -> Row:
    return Row(key, "events", title, "fanout", {"payload": 64, "window": 64, **options},
               target=Target(at_least, aim) if at_least else None)  # fmt: skip


def _with_rules(row: Row) -> Row:
    """The row again, where each publish and each subscription is decided about by a rule."""
    absent = dict.fromkeys(("nats", "redis", "broadcaster"), NO_RULES)
    title = f"{row.title}, with rules"
    return replace(row, key=f"{row.key}-rules", group="rules", title=title, rules=True, absent=absent)


def _other_protocols() -> list[Row]:
    """The text protocol should reach three quarters of the binary one; JSON is measured for information."""
    absent = {
        "upstream": "cannot serve text frames in ws mode",
        **dict.fromkeys(("nats", "redis", "mosquitto", "broadcaster"), "has its own protocol only"),
    }
    fanout = _event("fanout-100", "fan-out 1→100, 64 B", 4.5e6, 6.75e6, subscribers=100)
    ingest = Row("ingest", "events", "pipelined publishes, no subscriber, 64 B", "ingest", {"payload": 64},
                 "publishes/s", target=Target(3e6, 4.5e6))  # fmt: skip
    return [
        replace(row, key=f"{row.key}-{protocol}", group="protocols", title=f"{row.title}, {words}",
                protocol=protocol, absent=absent, target=row.target if protocol == "text" else None)
        for protocol, words in (("text", "text protocol (v3)"), ("json", "JSON"))
        for row in (fanout, ingest)
    ]  # fmt: skip


_ONLY_DEEPSTREAM = dict.fromkeys(("nats", "redis", "broadcaster"), NO_RECORDS)


def _write(action: str, size: int, subscribers: int, version: str = "forced") -> Row:
    small = size < 50_000
    key = f"{action}-{'small' if small else 'large'}-{subscribers}"
    audience = "1 subscriber" if subscribers == 1 else f"{subscribers} subscribers"
    title = f"{action}, record of {'100 B' if small else '100 KB'}, {audience}"
    if version == "next":
        key += "-next"
        title += ", successive versions"
    target = None
    if action == "patch" and not small:
        target = Target(50, 200, times_upstream=True)
    elif action == "patch" and subscribers:
        target = Target(25, 50, times_upstream=True) if subscribers > 1 else Target(5, 8, times_upstream=True)
    # 8 MiB may wait for one reader: large updates get a small window
    window = 64 if small or action == "patch" else 16
    options: dict[str, int | float | str] = {
        "action": action, "size": size, "subscribers": subscribers, "version": version, "window": window,
    }  # fmt: skip
    return Row(key, "records", title, "write", options, "writes/s", target=target, absent=_ONLY_DEEPSTREAM)


def _writes() -> list[Row]:
    rows = [
        _write(action, size, subscribers)
        for action in ("patch", "update")
        for size in (100, 100_000)
        for subscribers in (0, 1, 100)
    ]
    successive = (("patch", 100, 1), ("patch", 100, 100), ("update", 100, 1), ("patch", 100_000, 1))
    return rows + [_write(*case, "next") for case in successive]


_ONLY_MQTT = dict.fromkeys(("upstream", "nats", "redis", "broadcaster"), NO_MQTT)


def _mqtt(
    key: str,
    title: str,
    scenario: str,
    target: Target | None = None,
    *,
    unit: str = "deliveries/s",
    kind: Kind = "rate",
    **options: int | float | str,
) -> Row:
    return Row(f"mqtt-{key}", "mqtt", f"MQTT: {title}", scenario, options, unit, kind, target,
               protocol="mqtt", absent=_ONLY_MQTT)  # fmt: skip


_MQTT = (
    _mqtt("fanout-100", "fan-out 1→100, 64 B", "fanout", Target(10, None, times_mosquitto=True),
          payload=64, window=64, subscribers=100),
    _mqtt("fanout-1000", "fan-out 1→1000, 64 B", "fanout", payload=64, window=64, subscribers=1000),
    _mqtt("one-to-one", "1→1, 64 in flight, 64 B", "fanout", payload=64, window=64, subscribers=1),
    _mqtt("one-to-one-w1", "1→1, 1 in flight, 64 B", "fanout", payload=64, window=1, subscribers=1),
    _mqtt("ingest", "pipelined publishes, no subscriber, 64 B", "ingest", unit="publishes/s", payload=64),
    _mqtt("latency-1", "1 000 messages/s to 1 subscriber", "rate", Target(1, None, times_mosquitto=True),
          unit="ms p50 / p99 / p99.9", kind="latency", subscribers=1, rate=1_000, payload=64),
    _mqtt("latency-10", "10 000 messages/s to 10 subscribers", "rate",
          unit="ms p50 / p99 / p99.9", kind="latency", subscribers=10, rate=10_000, payload=64),
    _mqtt("logins", "login storm: TCP, CONNECT", "logins", unit="logins/s", count=10_000, concurrency=128),
    _mqtt("memory", "memory of an idle connection (10 000 open)", "logins", unit="KiB", kind="memory",
          count=10_000, concurrency=128, hold=1),
)  # fmt: skip


_NO_TLS = {"redis": "measured without TLS", "broadcaster": "has no TLS"}

_ROWS: tuple[Row, ...] = (
    _event("fanout-100", "fan-out 1→100, 64 B", 6e6, 9e6, subscribers=100),
    _event("fanout-1000", "fan-out 1→1000, 64 B", 5e6, 7.5e6, subscribers=1000),
    _event("fanout-100-1k", "fan-out 1→100, 1 KiB", 0, 0, subscribers=100, payload=1024),
    _event("fanout-1000-1k", "fan-out 1→1000, 1 KiB", 2e6, 3e6, subscribers=1000, payload=1024),
    _event("fanout-50-100", "fan-out 50 publishers→100, 64 B", 5e6, 6.5e6, subscribers=100, publishers=50),
    _event("one-to-one", "1→1, 64 in flight, 64 B", 0.7e6, 0.95e6, subscribers=1),
    _event("fanout-100-w1", "1→100, 1 in flight, 64 B", 0.23e6, 0.25e6, subscribers=100, window=1),
    Row("ingest", "events", "pipelined publishes, no subscriber, 64 B", "ingest", {"payload": 64},
        "publishes/s", target=Target(4e6, 6e6)),
    _with_rules(_event("fanout-100", "fan-out 1→100, 64 B", 0, 0, subscribers=100)),
    _with_rules(Row("ingest", "events", "pipelined publishes, no subscriber, 64 B", "ingest", {"payload": 64},
        "publishes/s")),
    *_other_protocols(),
    Row("latency-10", "latency", "10 000 events/s to 10 subscribers", "rate",
        {"subscribers": 10, "rate": 10_000, "payload": 64}, "ms p50 / p99 / p99.9", "latency"),
    Row("latency-1", "latency", "1 000 events/s to 1 subscriber", "rate",
        {"subscribers": 1, "rate": 1_000, "payload": 64}, "ms p50 / p99 / p99.9", "latency"),
    Row("logins", "connections", "login storm: TCP, upgrade, challenge, login", "logins",
        {"count": 10_000, "concurrency": 128}, "logins/s", target=Target(9e3, 20e3),
        absent={"redis": NO_LOGIN}),
    Row("memory", "connections", "memory of an idle logged-in connection (10 000 open)", "logins",
        {"count": 10_000, "concurrency": 128, "hold": 1}, "KiB", "memory", target=Target(10, 4),
        absent={"redis": NO_LOGIN}),
    *_writes(),
    Row("write-ack", "records", "patch with write-ack, 64 records, SQLite full (upstream: no storage)",
        "write",
        {"action": "patch", "size": 100, "subscribers": 0, "ack": 1, "records": 64, "window": 64},
        "acked writes/s", storage=True, absent=_ONLY_DEEPSTREAM),
    Row("write-ack-1", "records", "patch with write-ack, 1 in flight, SQLite full (upstream: no storage)",
        "write",
        {"action": "patch", "size": 100, "subscribers": 0, "ack": 1, "records": 1, "window": 1},
        "acked writes/s", storage=True, absent=_ONLY_DEEPSTREAM),
    Row("write-ack-memory", "records", "patch with write-ack, 64 records, in memory", "write",
        {"action": "patch", "size": 100, "subscribers": 0, "ack": 1, "records": 64, "window": 64},
        "acked writes/s", absent=_ONLY_DEEPSTREAM),
    Row("patch-sqlite", "records", "patch, 100 B, 1 subscriber, SQLite full (upstream: no storage)", "write",
        {"action": "patch", "size": 100, "subscribers": 1, "window": 64}, "writes/s", storage=True,
        absent=_ONLY_DEEPSTREAM),
    Row("read", "records", "read of 1000 hot records of 100 B", "read",
        {"size": 100, "records": 1000, "window": 64}, "reads/s", absent=_ONLY_DEEPSTREAM),
    Row("read-large", "records", "read of a hot record of 100 KB", "read",
        {"size": 100_000, "window": 16}, "reads/s", absent=_ONLY_DEEPSTREAM),
    Row("bulk-head", "records", "bulk head of 1000 names (and unsubscribe)", "head",
        {"names": 1000, "window": 4}, "requests/s", absent=_ONLY_DEEPSTREAM),
    Row("list-update", "records", "list of 10 000 entries: update, 1 subscriber", "write",
        {"action": "update", "list": 10_000, "subscribers": 1, "window": 8}, "writes/s",
        absent=_ONLY_DEEPSTREAM),
    Row("list-read", "records", "list of 10 000 entries: read", "read",
        {"list": 10_000, "window": 8}, "reads/s", absent=_ONLY_DEEPSTREAM),
    Row("rpc-1", "rpc", "RPC round trips, 1 in flight", "rpc", {"window": 1, "payload": 64}, "calls/s",
        absent=_ONLY_DEEPSTREAM),
    Row("rpc-200", "rpc", "RPC round trips, 200 in flight", "rpc", {"window": 200, "payload": 64}, "calls/s",
        target=Target(5, None, times_upstream=True), absent=_ONLY_DEEPSTREAM),
    replace(_event("fanout-100-tls", "fan-out 1→100, 64 B, TLS", 0, 0, subscribers=100),
            tls=True, absent=_NO_TLS),
    replace(_event("fanout-100-1k-tls", "fan-out 1→100, 1 KiB, TLS", 0, 0, subscribers=100, payload=1024),
            tls=True, absent=_NO_TLS),
    Row("logins-tls", "connections", "login storm with TLS", "logins", {"count": 3_000, "concurrency": 128},
        "logins/s", tls=True, absent=_NO_TLS),
    Row("presence", "presence", "login and logout seen by 1000 subscribers", "presence",
        {"subscribers": 1000, "window": 16}, "visits/s", absent=_ONLY_DEEPSTREAM),
)  # fmt: skip

WIDE = (64, 1024, 4096, 16384)


def _saturated(key: str, records: int | None = None) -> Row:
    """The row again, with a window wide enough to fill the core, which its own leaves time to rest."""
    row = next(row for row in _ROWS if row.key == key)
    options = {name: value for name, value in row.options.items() if name != "window"}
    title = re.sub(r", \d+ in flight", "", row.title)
    if records is not None:
        options["records"] = records
        title = re.sub(r"\d+ records", f"{records} records", title)
    target = row.target if row.target is not None and row.target.times_upstream else None
    key = "core-" + key.removesuffix("-200")
    return replace(row, key=key, group="core", title=title, options=options, target=target, windows=WIDE)


ROWS: tuple[Row, ...] = (
    *(replace(row, absent={**row.absent, "mosquitto": NO_MQTT}) for row in _ROWS),
    *_MQTT,
    _saturated("one-to-one"),
    *(_saturated(f"{action}-small-{audience}") for action in ("patch", "update") for audience in (0, 1)),
    _saturated("patch-large-0"),
    _saturated("patch-large-1"),
    _saturated("patch-small-1-next"),
    # Many records: of a few, the storage would write only the newest state of each.
    _saturated("write-ack", records=4096),
    _saturated("write-ack-memory", records=4096),
    _saturated("read"),
    _saturated("rpc-200"),
)

QUICK = ("fanout-100", "fanout-50-100", "ingest", "latency-10", "logins", "patch-small-1", "patch-large-0",
         "write-ack", "read", "bulk-head", "list-read", "rpc-200", "presence", "core-rpc")  # fmt: skip

GROUPS = tuple(dict.fromkeys(row.group for row in ROWS))


def select(only: str | None, quick: bool) -> list[Row]:
    """The rows named by `only` (groups, keys or the start of a key, comma separated).

    Raises:
        ValueError: when a word names nothing.
    """
    words = [word.strip() for word in only.split(",") if word.strip()] if only else []
    rows = [row for row in ROWS if not quick or words or row.key in QUICK]
    for word in words:
        if not any(_named(row, word) for row in rows):
            raise ValueError(f"no row or group is called {word}; groups: {', '.join(GROUPS)}")
    return [row for row in rows if not words or any(_named(row, word) for word in words)]


def _named(row: Row, word: str) -> bool:
    return word == row.group or row.key.startswith(word)
