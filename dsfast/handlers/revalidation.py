"""Ends what clients hold but new permission rules no longer allow (``revalidateOnReload``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dsfast._core.connection import Connection
from dsfast._core.fanout import Registry
from dsfast._core.protocol import Message, Topic
from dsfast.handlers.listen import ListenHandler
from dsfast.handlers.permission import Decision, PermissionGate, refusal
from dsfast.plugin import Logger, Socket

__all__ = ["Grants", "Revalidation"]

CHECKS_PER_TURN = 200
"""Decisions made at the same time; then others have a turn of the loop."""


@dataclass(frozen=True, slots=True)
class Grants:
    """The subscriptions of one registry, and the action that asks for one."""

    topic: Topic
    action: int
    registry: Registry
    named: bool = True  # False: the action has no name, there is one subscription to everything


@dataclass(frozen=True, slots=True)
class _Grant:
    connection: Socket
    message: Message  # what the client would have to send to get it
    remove: Callable[[], bool]


class Revalidation:
    """Asks again for everything that was permitted once and lasts: subscriptions, provided RPCs, patterns."""

    def __init__(
        self,
        gate: PermissionGate,
        grants: list[Grants],
        listens: Sequence[tuple[Topic, int, ListenHandler]],
        logger: Logger,
    ) -> None:
        self._gate = gate
        self._grants = grants
        self._listens = listens
        self._logger = logger
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def start(self) -> None:
        """The rules have changed: look through everything, now and after the checks that are running."""
        self._gate.rules += 1
        self.look()

    def look(self) -> None:
        """Look through everything. A look that is running starts once more."""
        self._again = True
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._again:
                self._again = False
                ended = 0
                batch: list[_Grant] = []
                for grant in self._held():
                    batch.append(grant)
                    if len(batch) == CHECKS_PER_TURN:
                        ended += await self._check(batch)
                        batch = []
                ended += await self._check(batch)
                self._logger.info("INFO", f"new permission rules ended {ended} subscriptions")
        except Exception as error:
            self._logger.error("PLUGIN_ERROR", f"while applying new permission rules: {error!r}")
        finally:
            self._task = None

    def _held(self) -> Iterator[_Grant]:
        for grants in self._grants:
            for name in grants.registry.names():
                for connection in grants.registry.subscribers(name):
                    message = Message(grants.topic, grants.action, name=name if grants.named else None)
                    yield _Grant(connection, message, _remover(grants.registry, name, connection))
        for topic, action, listen in self._listens:
            for connection, text in listen.patterns():
                message = Message(topic, action, name=text)
                yield _Grant(connection, message, _unlistener(listen, connection, text))

    async def _check(self, batch: list[_Grant]) -> int:
        """Decide about some of them; the number of those that ended."""
        decisions = await asyncio.gather(
            *[self._gate.decide(grant.connection, grant.message) for grant in batch]
        )
        ended = 0
        for grant, decision in zip(batch, decisions, strict=True):
            if decision is not Decision.ALLOWED and grant.remove():
                ended += 1
                grant.connection.send(refusal(grant.message, decision))
        await asyncio.sleep(0)
        return ended


def _remover(registry: Registry, name: str, connection: Connection) -> Callable[[], bool]:
    return lambda: registry.remove(name, connection)


def _unlistener(listen: ListenHandler, connection: Socket, text: str) -> Callable[[], bool]:
    return lambda: listen.remove(connection, text)
