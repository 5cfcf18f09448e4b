"""The metrics as Prometheus reads them: by its own parsers, from a server at work; and the dashboard."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from dsfast import StartError
from dsfast.config import load
from dsfast.plugin import LogLevel
from dsfast.protocol import EventAction, RecordAction, RpcAction, Topic
from dsfast.testing import plugin_services
from dsfast_plugins.options import OptionError
from dsfast_plugins.prometheus import Family, Histogram, PrometheusMonitoring, exposition
from tests.wire import Running, Users, auth_request, serve

loops = ["uvloop"]

DASHBOARD = Path(__file__).parent.parent.parent / "docs" / "plugins" / "grafana.json"


def monitored(**options: Any) -> dict[str, Any]:
    return {"monitoring": [{"class": PrometheusMonitoring, "options": options}]}


async def fetch(running: Running, path: str = "/metrics", **headers: str) -> Any:
    client = await running.connect()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    return await client.response()


async def scrape(running: Running, *, open_metrics: bool = False) -> dict[str, Metric]:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"} if open_metrics else {}
    response = await fetch(running, **accept)
    assert response.status == 200
    kind = "application/openmetrics-text" if open_metrics else "text/plain"
    assert response.headers["content-type"].startswith(kind)
    parse = parse_open_metrics if open_metrics else parse_text
    families = list(parse(response.body.decode()))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return float(found)


async def work(running: Running) -> None:
    """Something of everything."""
    alice, bob = await running.login("alice"), await running.login("bob")
    for client in (alice, bob):
        client.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["news"], correlation_id="1")
        await client.receive()
    for _ in range(3):
        alice.message(Topic.EVENT, EventAction.EMIT, name="news", data=b"1")
        await bob.expect(Topic.EVENT, EventAction.EMIT)
    alice.message(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="2")
    await alice.receive()
    bob.message(Topic.RPC, RpcAction.PROVIDE, names=["add"], correlation_id="3")
    await bob.receive()
    alice.message(Topic.RPC, RpcAction.REQUEST, name="add", correlation_id="4", data=b"1")
    await bob.expect(Topic.RPC, RpcAction.REQUEST)
    stranger = await running.challenged()
    stranger.send(auth_request(b'{"refuse":true}'))
    await stranger.receive()
    running.services.logger.warn("ODD", "line")


@pytest.mark.parametrize("open_metrics", [False, True])
async def test_a_server_at_work(open_metrics: bool) -> None:
    async with serve(monitored(), authentication=Users) as s:
        await work(s)
        found = await scrape(s, open_metrics=open_metrics)
        assert value(found, "dsfast_messages_received_total", topic="EVENT", action="EMIT") == 3
        assert value(found, "dsfast_messages_sent_total", topic="EVENT", action="EMIT") == 3
        assert value(found, "dsfast_messages_received_total", topic="RPC", action="REQUEST") == 1
        assert value(found, "dsfast_logins_total", endpoint="websocket", result="allowed") == 2
        assert value(found, "dsfast_logins_total", endpoint="websocket", result="declined") == 1
        assert value(found, "dsfast_log_events_total", level="warn", event="ODD") == 1
        assert value(found, "dsfast_connections", listener="port") == 4  # and who scrapes
        assert value(found, "dsfast_names", registry="EVENT_SUBSCRIPTIONS") == 1
        assert value(found, "dsfast_names", registry="ONLINE_USERS") == 2
        assert value(found, "dsfast_rpc_open_calls") == 1
        assert value(found, "dsfast_cache_entries") == 1
        assert value(found, "process_resident_memory_bytes") > 1 << 20
        assert found["dsfast_messages_received"].type == "counter"
        assert found["dsfast_names"].type == "gauge"
        assert not any(sample.labels.get("registry") == "LOCK" for sample in found["dsfast_names"].samples)


async def test_fan_out_is_a_histogram() -> None:
    async with serve(monitored(), authentication=Users) as s:
        clients = [await s.login(f"user{number}") for number in range(5)]
        for count, client in enumerate(clients, 1):
            client.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["news"], correlation_id="1")
            await client.receive()
            client.message(Topic.EVENT, EventAction.EMIT, name="news", data=b"1")
            await client.fence()
            for other in clients[: count - 1]:
                await other.expect(Topic.EVENT, EventAction.EMIT)
        found = await scrape(s)
        buckets = {
            le: value(found, "dsfast_fan_out_bucket", le=le) for le in ("1.0", "2.0", "4.0", "8.0", "+Inf")
        }
        assert buckets == {"1.0": 1, "2.0": 2, "4.0": 4, "8.0": 5, "+Inf": 5}
        assert value(found, "dsfast_fan_out_sum") == 1 + 2 + 3 + 4 + 5
        assert value(found, "dsfast_fan_out_count") == 5


async def test_latencies_are_histograms() -> None:
    async with serve(monitored(lagInterval=1), authentication=Users) as s:
        client = await s.login("alice")
        await client.fence()
        monitoring: Any = s.services.monitoring
        await s.until(lambda: sum(monitoring._lag.counts) >= 3)
        found = await scrape(s)
        turns = value(found, "dsfast_turn_seconds_count")
        assert turns >= 3  # challenge, login, ping
        assert 0 < value(found, "dsfast_turn_seconds_sum") < 60
        assert value(found, "dsfast_event_loop_lag_seconds_count") >= 3


async def test_a_blocked_loop_is_seen() -> None:
    async with serve(monitored(lagInterval=1)) as s:
        monitoring: Any = s.services.monitoring
        seen = sum(monitoring._lag.counts[8:])  # beyond 0.1 s
        time.sleep(0.15)  # noqa: ASYNC251 - what nobody should do in a server
        await s.until(lambda: sum(monitoring._lag.counts[8:]) > seen)


async def test_counters_only_grow() -> None:
    async with serve(monitored(), authentication=Users) as s:
        before = await scrape(s)
        await work(s)
        after = await scrape(s)
        await scrape(s)
        again = await scrape(s)
        for first, second in ((before, after), (after, again)):
            old = {
                (sample.name, tuple(sample.labels.items())): sample.value
                for family in first.values()
                if family.type in ("counter", "histogram")
                for sample in family.samples
            }
            new = {
                (sample.name, tuple(sample.labels.items())): sample.value
                for family in second.values()
                for sample in family.samples
            }
            assert [key for key, count in old.items() if new[key] < count] == []


async def test_a_token() -> None:
    async with serve(monitored(token="sixteen characters", path="/m/prometheus")) as s:
        assert (await fetch(s, "/m/prometheus")).status == 401
        assert (await fetch(s, "/m/prometheus", Authorization="Bearer sixteen")).status == 401
        assert (await fetch(s, "/m/prometheus", Authorization="Basic sixteen characters")).status == 401
        assert (await fetch(s, "/m/prometheus", Authorization="Bearer sixteen characters")).status == 200
        assert (await fetch(s, "/m/prometheus/more", Authorization="Bearer sixteen characters")).status == 404
        assert (await fetch(s, "/metrics")).status == 404


async def test_together_with_other_monitorings() -> None:
    config = {
        "monitoring": [
            {"class": PrometheusMonitoring},
            {"type": "http", "options": {"url": "/figures", "allowOpenPermissions": True}},
        ]
    }
    async with serve(config, authentication=Users) as s:
        await work(s)
        figures = json.loads((await fetch(s, "/figures")).body)
        assert figures["received"]["EVENT"]["EMIT"] == 3
        assert json.loads((await fetch(s, "/figures")).body)["received"] == {}
        found = await scrape(s)
        assert value(found, "dsfast_messages_received_total", topic="EVENT", action="EMIT") == 3
        assert value(found, "dsfast_logins_total", endpoint="websocket", result="allowed") == 2


def test_names_of_events_are_bounded() -> None:
    monitoring = PrometheusMonitoring({}, plugin_services(), load())
    for number in range(10_000):
        monitoring.on_error_log(LogLevel.WARN, f"EVENT{number}", "", None)
    assert len(monitoring._events) <= 501
    assert sum(monitoring._events.values()) == 10_000


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "\\n", "{}", "ä \u2028 \ud800", ""])
def test_labels_come_back_as_they_were(text: str) -> None:
    written = exposition([Family("x", "counter", text, [({"a": text, "b": "c"}, 1.5)])], open_metrics=False)
    ((sample,),) = [family.samples for family in parse_text(written)]
    assert sample.labels == {"a": text.replace("\ud800", "?"), "b": "c"}
    written = exposition([Family("x", "counter", "h", [({"a": text}, 1)])], open_metrics=True)
    ((sample,),) = [family.samples for family in parse_open_metrics(written)]
    assert sample.labels == {"a": text.replace("\ud800", "?")}


def test_histograms() -> None:
    histogram = Histogram([1, 2, 4])
    for number in (0, 1, 1.5, 2, 3, 5, 100):
        histogram.observe(number)
    assert histogram.counts == [2, 2, 1, 2]
    assert histogram.sum == 112.5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"path": "metrics"}, "option path: expected str matching regex"),
        ({"path": "/"}, "option path: expected str matching regex"),
        ({"token": "short"}, "option token: expected str of length >= 16"),
        ({"lagInterval": 0}, "option lagInterval: expected int >= 1"),
        ({"lagInterval": "fast"}, "option lagInterval: expected int, got str"),
    ],
)
def test_wrong_options(options: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        PrometheusMonitoring(options, plugin_services(), load())


async def test_a_path_that_is_taken_ends_the_start() -> None:
    with pytest.raises(StartError, match="option path: GET /health-check is answered by somebody else"):
        async with serve(monitored(path="/health-check")):
            pass


# The dashboard


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


async def test_every_metric_of_the_dashboard_exists_and_every_metric_is_on_it(tmp_path: Path) -> None:
    used = {name for text in expressions() for name in re.findall(r"\b(?:dsfast|process)_\w+", text)}
    sqlite = {"type": "sqlite", "options": {"path": str(tmp_path / "records.db")}}
    async with serve({**monitored(), "storage": sqlite}, authentication=Users) as s:
        await work(s)
        found = await scrape(s)
        there = {sample.name for family in found.values() for sample in family.samples}
        assert used <= there
        families = {re.sub("_(total|bucket|sum|count)$", "", name) for name in used}
        # Those that say who it is and since when, and what the other logins are a part of.
        assert set(found) - families == {
            "dsfast_info",
            "process_start_time_seconds",
            "dsfast_endpoint_logins",
        }
        labels = {
            name: {label for sample in family.samples for label in sample.labels}
            for name, family in found.items()
        }
    for text in expressions():
        for group, name in re.findall(r"by \(([^)]*)\) \((?:rate\()?(\w+)", text):
            wanted = set(group.replace(" ", "").split(",")) - {"instance", "le"}
            assert wanted <= labels[re.sub("_(total|bucket|sum|count)$", "", name)], text


def test_the_dashboard_is_well_formed() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {entry["name"] for entry in dashboard["templating"]["list"]}
    known = {*variables, "__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"]))) <= known
    for text in expressions():
        assert text.count("(") == text.count(")")
        assert text.count("{") == text.count("}")
        assert "rate(" in text or "_total" not in text
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
