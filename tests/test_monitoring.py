"""Several monitorings at once."""

import pytest

from dsfast.config import load
from dsfast.plugin import Logger, LogLevel, Monitoring
from dsfast.services import Services
from dsfast.services.monitoring import CombinedMonitoring, NoMonitoring


class Lines(Logger):
    def init(self):
        self.lines = []

    def log(self, level, event, message, meta=None):
        self.lines.append(f"{event} {message}")


class Recorder(Monitoring):
    description = "recorder"

    def init(self):
        self.calls = []

    def on_error_log(self, level, event, message, meta):
        self.calls.append(("log", level, event, message, meta))

    def on_login(self, allowed, endpoint_type):
        self.calls.append(("login", allowed, endpoint_type))

    def on_message_received(self, message, socket):
        self.calls.append(("received", message, socket))

    def on_message_send(self, message):
        self.calls.append(("send", message))

    def on_broadcast(self, message, count):
        self.calls.append(("broadcast", message, count))


class Failing(Recorder):
    description = "failing"

    def on_login(self, allowed, endpoint_type):
        raise RuntimeError("boom")


@pytest.fixture
def services():
    services = Services()
    services.logger = Lines({}, services, load())
    services.logger.init()
    return services


def everything(monitoring):
    monitoring.on_error_log(LogLevel.WARN, "E", "m", None)
    monitoring.on_login(True, "websocket")
    monitoring.on_message_received("message", "socket")
    monitoring.on_message_send("message")
    monitoring.on_broadcast("message", 3)


async def test_everything_reaches_each_of_them_and_a_failing_one_is_logged(services):
    entries = [kind({}, services, services.logger.config) for kind in (Failing, Recorder)]
    monitoring = CombinedMonitoring(entries, services, services.logger.config)
    monitoring.init()
    await monitoring.when_ready()
    everything(monitoring)
    await monitoring.close()
    assert [call[0] for call in entries[1].calls] == ["log", "login", "received", "send", "broadcast"]
    assert [call[0] for call in entries[0].calls] == ["log", "received", "send", "broadcast"]
    assert services.logger.lines == ["PLUGIN_ERROR monitoring Failing failed: RuntimeError('boom')"]


def test_no_monitoring_takes_everything(services):
    everything(NoMonitoring({}, services, services.logger.config))
