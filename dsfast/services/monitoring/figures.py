"""What the built-in monitorings tell (http.md section 8)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from dsfast._core.protocol import (
    AuthAction,
    ConnectionAction,
    EventAction,
    ParserAction,
    PresenceAction,
    RecordAction,
    RpcAction,
    Topic,
)
from dsfast.plugin import Monitoring

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["Figures", "FiguresMonitoring"]

Counts = Mapping[tuple[int, int], int]
ACTIONS: dict[int, type[IntEnum]] = {
    Topic.PARSER: ParserAction,
    Topic.CONNECTION: ConnectionAction,
    Topic.AUTH: AuthAction,
    Topic.EVENT: EventAction,
    Topic.RECORD: RecordAction,
    Topic.RPC: RpcAction,
    Topic.PRESENCE: PresenceAction,
}
UNKNOWN = "UNKNOWN"
MAX_EVENTS = 1000
"""Names of log events that are counted apart; plugins make up their own."""


class Figures:
    """Counts logins and warnings, and reads the counters of the core: messages cost nothing here.

    What is told is what has happened since the last :meth:`take`.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._since = _now()
        self._errors: Counter[str] = Counter()
        self._logins: dict[str, list[int]] = {}
        self._before: tuple[Counts, Counts] = ({}, {})

    def note_error(self, event: str) -> None:
        """A warning or an error was logged."""
        self._errors[event if event in self._errors or len(self._errors) < MAX_EVENTS else UNKNOWN] += 1

    def note_login(self, allowed: bool, endpoint_type: str) -> None:
        """A login was answered."""
        self._logins.setdefault(endpoint_type, [0, 0])[not allowed] += 1

    def take(self) -> dict[str, Any]:
        """The figures, counted from now on anew."""
        now, router = _now(), self._services.message_distributor
        received, sent = router.hub.message_counts()
        old_received, old_sent = self._before
        figures = {
            "from": self._since,
            "to": now,
            "clusterSize": 1,
            "stateMetrics": router.state_metrics(),
            "errors": dict(self._errors),
            "received": _named(received, old_received),
            "send": _named(sent, old_sent),
            "logins": {
                kind: {"allowed": allowed, "declined": declined}
                for kind, (allowed, declined) in self._logins.items()
            },
        }
        self._since, self._before = now, (received, sent)
        self._errors.clear()
        self._logins.clear()
        return figures


class FiguresMonitoring(Monitoring):
    """Base of the built-in monitorings."""

    def __init__(self, options: Any, services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self.figures = Figures(services)

    def on_error_log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None) -> None:
        """See :class:`Monitoring`."""
        self.figures.note_error(event)

    def on_login(self, allowed: bool, endpoint_type: str) -> None:
        """See :class:`Monitoring`."""
        self.figures.note_login(allowed, endpoint_type)


def _named(counts: Counts, before: Counts) -> dict[str, dict[str, int]]:
    """What has been added, by the names of topics and actions."""
    named: dict[str, dict[str, int]] = {}
    for (topic, action), count in counts.items():
        more = count - before.get((topic, action), 0)
        if more:
            actions = named.setdefault(_name(Topic, topic), {})
            name = _name(ACTIONS.get(topic, ()), action)
            actions[name] = actions.get(name, 0) + more
    return named


def _name(names: Iterable[IntEnum], number: int) -> str:
    return next((member.name for member in names if member == number), UNKNOWN)


def _now() -> int:
    return int(time.time() * 1000)
