"""Asks the permission plugin about messages and keeps their order (DESIGN.md sections 3 to 5).

Only used when permission is not open; the core then sends every message here before its handler sees it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from dsfast._core.connection import Connection
from dsfast._core.protocol import EventAction, Message, PresenceAction, RecordAction, RpcAction, Topic
from dsfast.plugin import Logger, Permission

if TYPE_CHECKING:
    from dsfast.handlers import MessageRouter

__all__ = ["Decision", "PermissionGate"]


class Decision(Enum):
    """Outcome of one permission check."""

    ALLOWED = "allowed"
    DENIED = "denied"
    FAILED = "failed"
    """The check raised an error or took too long; refused as well, but answered differently."""


# Only these carry their names in ``names``; all others have one ``name``, and the other field is ignored.
# Deciding by the field instead would let a decoy list hide the name that is really used.
BULK_ACTIONS: dict[int, frozenset[int]] = {
    Topic.EVENT: frozenset({EventAction.SUBSCRIBE, EventAction.UNSUBSCRIBE}),
    Topic.RECORD: frozenset(
        {
            RecordAction.NOTIFY,
            RecordAction.HEAD_BULK,
            RecordAction.SUBSCRIBEANDHEAD,
            RecordAction.SUBSCRIBEANDREAD,
            RecordAction.SUBSCRIBECREATEANDREAD,
            RecordAction.SUBSCRIBE,
            RecordAction.UNSUBSCRIBE,
        }
    ),
    Topic.RPC: frozenset({RpcAction.PROVIDE, RpcAction.UNPROVIDE}),
    Topic.PRESENCE: frozenset({PresenceAction.QUERY, PresenceAction.SUBSCRIBE, PresenceAction.UNSUBSCRIBE}),
}

# (MESSAGE_DENIED, MESSAGE_PERMISSION_ERROR) of each topic
REFUSALS: dict[int, tuple[int, int]] = {
    Topic.EVENT: (EventAction.MESSAGE_DENIED, EventAction.MESSAGE_PERMISSION_ERROR),
    Topic.RECORD: (RecordAction.MESSAGE_DENIED, RecordAction.MESSAGE_PERMISSION_ERROR),
    Topic.RPC: (RpcAction.MESSAGE_DENIED, RpcAction.MESSAGE_PERMISSION_ERROR),
    Topic.PRESENCE: (PresenceAction.MESSAGE_DENIED, PresenceAction.MESSAGE_PERMISSION_ERROR),
}


# These are decided about when it is the turn of their record, not on arrival: a rule may look at the record,
# which earlier writes are still going to change (records.md section 6.2).
DECIDED_IN_TURN = frozenset(
    {
        RecordAction.UPDATE,
        RecordAction.PATCH,
        RecordAction.PATCH_MULTI,
        RecordAction.ERASE,
        RecordAction.DELETE,
    }
)


def refusal(message: Message, decision: Decision, action: int | None = None) -> Message:
    """The answer to a refused message; ``action`` is the client's, if another one was checked."""
    denied, failed = REFUSALS[message.topic]
    return Message(
        message.topic,
        denied if decision is Decision.DENIED else failed,
        original_action=message.action if action is None else action,
        name=message.name,
        correlation_id=message.correlation_id,
        is_error=True,
        is_write_ack=True if message.is_write_ack else None,
    )


class PermissionGate:
    """Permission checks of one server; ``timeout`` in milliseconds bounds those that wait."""

    router: MessageRouter

    def __init__(self, permission: Permission, logger: Logger, timeout: float) -> None:
        self._permission = permission
        self._logger = logger
        self._timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()

    def check(self, connection: Connection, message: Message) -> None:
        """Decide about a message that has just arrived, and hand it to its handler if it is allowed.

        Of a bulk request exactly the allowed names go on. While a decision is open, the later messages of the
        connection wait.
        """
        if message.topic == Topic.RECORD and self.router.record_handler is not None:
            if self.router.record_handler.refuses(connection, message):
                return
            if message.action in DECIDED_IN_TURN:
                self.router.forward(connection, message)
                return
        bulk = message.action in BULK_ACTIONS[message.topic]
        if not bulk:
            parts = [message if message.names is None else message.replace(names=None)]
        else:
            parts = [message.replace(name=name, names=None) for name in dict.fromkeys(message.names or ())]
        decisions = [self.ask(connection, part) for part in parts]
        if all(isinstance(decision, Decision) for decision in decisions):
            self._conclude(connection, message, parts, cast(list[Decision], decisions), bulk)
            return
        connection.hold()
        task = asyncio.ensure_future(self._wait(connection, message, parts, decisions, bulk))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def decide(self, connection: Connection, message: Message) -> Decision:
        """Decide about one step of a message; never raises."""
        answer = self.ask(connection, message)
        return answer if isinstance(answer, Decision) else await self._answer(message, answer)

    def ask(self, connection: Connection, message: Message) -> Decision | Awaitable[Any]:
        """Ask the plugin once: its decision, or what to wait for (see :meth:`decide`)."""
        try:
            allowed = self._permission.can_perform_action(connection, message)
        except Exception as error:
            return self._failed(message, error)
        if inspect.isawaitable(allowed):
            return asyncio.ensure_future(allowed)
        return Decision.ALLOWED if allowed else Decision.DENIED

    async def close(self) -> None:
        """Drop the checks that are still waiting."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, message: Message, waiting: Awaitable[Any]) -> Decision:
        try:
            async with asyncio.timeout(self._timeout / 1000):
                return Decision.ALLOWED if await waiting else Decision.DENIED
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not this check was cancelled, only something the plugin was waiting for.
            return self._failed(message, error)
        except Exception as error:
            return self._failed(message, error)

    def _failed(self, message: Message, error: BaseException) -> Decision:
        reason = "no answer in time" if isinstance(error, TimeoutError) else repr(error)
        self._logger.warn(
            "MESSAGE_PERMISSION_ERROR", f"topic {message.topic} action {message.action}: {reason}"
        )
        return Decision.FAILED

    async def _wait(
        self,
        connection: Connection,
        message: Message,
        parts: list[Message],
        decisions: list[Decision | Awaitable[Any]],
        bulk: bool,
    ) -> None:
        try:
            # All at once: the time limit is that of the message, however many names it has.
            open_ = [i for i, decision in enumerate(decisions) if not isinstance(decision, Decision)]
            answers = await asyncio.gather(
                *[self._answer(parts[i], cast(Awaitable[Any], decisions[i])) for i in open_]
            )
            for i, answer in zip(open_, answers, strict=True):
                decisions[i] = answer
            self._conclude(connection, message, parts, cast(list[Decision], decisions), bulk)
        except Exception as error:
            self._logger.error("PLUGIN_ERROR", f"while handling a permitted message: {error!r}")
        finally:
            connection.release()

    def _conclude(
        self,
        connection: Connection,
        message: Message,
        parts: list[Message],
        decisions: list[Decision],
        bulk: bool,
    ) -> None:
        allowed: list[str] = []
        for part, decision in zip(parts, decisions, strict=True):
            if decision is not Decision.ALLOWED:
                connection.send(refusal(part, decision))
            elif bulk:
                allowed.append(cast(str, part.name))
            else:
                self.router.forward(connection, part)
        if bulk and (allowed or not parts):
            kept = set(allowed)
            # Repeated names stay repeated, in their order: the handler answers each.
            names = [name for name in message.names or () if name in kept]
            self.router.forward(connection, message.replace(name=None, names=names))
