"""Asks the permission plugin about messages and keeps their order (DESIGN.md sections 3 to 5).

Only used when permission is not open; the core then sends every message here before its handler sees it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from dsfast._core.connection import Connection
from dsfast._core.protocol import EventAction, Message, PresenceAction, RecordAction, RpcAction, Topic
from dsfast.plugin import Logger, Permission, PluginError, Socket
from dsfast.services.logger.flood_guard import FloodGuard

if TYPE_CHECKING:
    from dsfast.handlers import MessageRouter

__all__ = ["Decision", "Lane", "PermissionGate", "refusal"]


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

# About everybody: a name in such a message means nothing, and must not choose the rule.
NAMELESS = frozenset(
    {(Topic.PRESENCE, PresenceAction.QUERY_ALL), (Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL)}
)

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


CHANGES_RECORDS = DECIDED_IN_TURN | {
    RecordAction.NOTIFY,
    RecordAction.CREATEANDUPDATE,
    RecordAction.CREATEANDPATCH,
    RecordAction.SUBSCRIBECREATEANDREAD,
}

# What :meth:`PermissionGate.check` has to look at closely. Everything else is asked about once, as it came.
SPECIAL = frozenset(
    {
        *((int(topic), int(action)) for topic, actions in BULK_ACTIONS.items() for action in actions),
        *((int(topic), int(action)) for topic, action in NAMELESS),
        *((int(Topic.RECORD), int(action)) for action in (*DECIDED_IN_TURN, RecordAction.CREATE)),
    }
)
RECORD = int(Topic.RECORD)  # a member of an enumeration costs more to get than all else that is done with it

LANE_CHECKS = 1000
LANE_BYTES = 1 << 20
"""Messages, and bytes, of one connection that may wait for decisions; then it is not read any further."""


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


class _Check:
    """A message whose permission is being decided, or that waits behind one."""

    __slots__ = ("bulk", "changes_records", "decisions", "message", "parts", "rules")

    def __init__(self, message: Message, parts: list[Message], bulk: bool) -> None:
        self.message = message
        self.parts = parts  # one message for each name
        self.bulk = bulk
        self.decisions: list[Decision | Awaitable[Any]] | None = None  # not asked yet
        self.rules = 0  # those it was asked under, see PermissionGate.rules
        self.changes_records = message.topic == Topic.RECORD and message.action in CHANGES_RECORDS

    @property
    def is_decided(self) -> bool:
        return self.decisions is not None and all(isinstance(answer, Decision) for answer in self.decisions)

    @property
    def size(self) -> int:
        """What it keeps in memory, in bytes, roughly."""
        return 500 * (1 + len(self.parts)) + len(self.message.data or b"")


class Lane:
    """The messages of one connection from the first that waits for its decision on.

    They are decided about at the same time, but each takes effect only after those before it. Only what comes
    behind a message that may change records is not asked about before its turn: a rule may look at them.
    """

    def __init__(self, gate: PermissionGate, connection: Connection) -> None:
        self._gate = gate
        self._connection = connection
        self._checks: deque[_Check] = deque()
        self._size = 0
        self._changing = 0
        self._full = False  # then this lane holds the connection
        self._running = False

    def add(self, check: _Check) -> None:
        """Put a message behind the others."""
        if not self._changing:
            self._gate.ask_all(self._connection, check)
        self._checks.append(check)
        self._size += check.size
        self._changing += check.changes_records
        if not self._full and (len(self._checks) >= LANE_CHECKS or self._size >= LANE_BYTES):
            self._full = True
            self._connection.hold()

    def resume(self) -> None:
        """Let the messages whose turn it is take effect. Called whenever that may have changed."""
        if self._running:
            return
        self._running = True
        checks, connection = self._checks, self._connection
        while checks and connection.held == self._full:
            if checks[0].decisions is None:
                self._gate.ask_all(connection, checks[0])
            if not checks[0].is_decided:
                break
            check = checks.popleft()
            self._size -= check.size
            self._changing -= check.changes_records
            self._gate.conclude(connection, check)
        self._running = False
        if not checks:
            connection.lane = None
        if self._full and len(checks) < LANE_CHECKS // 2 and self._size < LANE_BYTES // 2:
            self._full = False
            connection.release()


class PermissionGate:
    """Permission checks of one server; ``timeout`` in milliseconds bounds those that wait."""

    router: MessageRouter
    rules: int = 0
    """How often the rules have changed; a check that is running finishes with those it started with."""

    def __init__(self, permission: Permission, logger: Logger, timeout: float) -> None:
        self._permission = permission
        self._logger = logger
        self._guard = FloodGuard(logger)
        self._timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()

    def check(self, connection: Connection, message: Message) -> None:
        """Decide about a message that has just arrived, and hand it to its handler if it is allowed.

        Of a bulk request exactly the allowed names go on. While a decision is open, the later messages of the
        connection queue up behind it (see :class:`Lane`).
        """
        topic = message.topic
        if topic == RECORD:
            records = self.router.record_handler
            if records is not None and records.refuses(connection, message):
                return
        if connection.lane is None and message.names is None and (topic, message.action) not in SPECIAL:
            self._check_one(connection, message)
            return
        bulk = message.action in BULK_ACTIONS[message.topic]
        names = message.names or ()
        if (message.topic, message.action) in NAMELESS:
            parts = [message.replace(name=None, names=None)]
        elif not bulk:
            parts = [message if message.names is None else message.replace(names=None)]
        elif len(names) > connection.max_names or "" in names:
            self.router.forward(connection, message)  # has no effect: its handler refuses it
            return
        else:
            parts = [message.replace(name=name, names=None) for name in dict.fromkeys(names)]
        check = _Check(message, parts, bulk)
        if connection.lane is not None:
            connection.lane.add(check)
            return
        self.ask_all(connection, check)
        if check.is_decided:
            self.conclude(connection, check)
            return
        connection.lane = Lane(self, connection)
        connection.lane.add(check)

    def _check_one(self, connection: Connection, message: Message) -> None:
        """The short way of an ordinary message: with a plugin that answers at once it is one call of it."""
        answer = self.ask(connection, message)
        if isinstance(answer, Decision):
            self._carry_out(connection, message, answer)
            return
        check = _Check(message, [message], False)
        check.decisions = [answer]
        self._start_waiting(connection, check, check.decisions)
        connection.lane = Lane(self, connection)
        connection.lane.add(check)

    def _carry_out(self, connection: Connection, message: Message, decision: Decision) -> None:
        try:
            if decision is Decision.ALLOWED:
                self.router.forward(connection, message)
            else:
                connection.send(refusal(message, decision))
        except Exception as error:
            self._report_fault(error)

    def ask_all(self, connection: Connection, check: _Check) -> None:
        """Ask about everything a message wants, once; its lane goes on when the last answer is there."""
        if check.decisions is not None:
            return
        message, check.rules = check.message, self.rules
        # CREATE is only a step of other actions: as a message its handler refuses it.
        if message.topic == Topic.RECORD and (
            message.action in DECIDED_IN_TURN or message.action == RecordAction.CREATE
        ):
            check.decisions = [Decision.ALLOWED]
            return
        check.decisions = [self.ask(connection, part) for part in check.parts]
        if not check.is_decided:
            self._start_waiting(connection, check, check.decisions)

    def _start_waiting(
        self, connection: Connection, check: _Check, decisions: list[Decision | Awaitable[Any]]
    ) -> None:
        task = asyncio.ensure_future(self._wait(connection, check, decisions))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def decide(self, connection: Socket, message: Message) -> Decision:
        """Decide about one step of a message; never raises."""
        rules = self.rules
        answer = self.ask(connection, message)
        if isinstance(answer, Decision):
            return answer
        decision = await self.answer(connection, message, answer)
        self._look_again(rules)
        return decision

    def _look_again(self, rules: int) -> None:
        """What rules that hold no more have permitted may last: look through it once it has taken effect."""
        if rules != self.rules and self.router.revalidation is not None:
            self.router.revalidation.look()

    def ask(self, connection: Socket, message: Message) -> Decision | Awaitable[Any]:
        """Ask the plugin once: its decision, or what to wait for (see :meth:`decide`)."""
        try:
            allowed = self._permission.can_perform_action(connection, message)
        except Exception as error:
            return self._failed(connection, message, error)
        if isinstance(allowed, bool):
            return Decision.ALLOWED if allowed else Decision.DENIED
        if inspect.isawaitable(allowed):
            return asyncio.ensure_future(allowed)
        return Decision.ALLOWED if allowed else Decision.DENIED

    async def close(self) -> None:
        """Drop the checks that are still waiting."""
        for task in self._tasks:
            task.cancel()
        self._guard.close()

    async def answer(self, connection: Socket, message: Message, waiting: Awaitable[Any]) -> Decision:
        """The decision that :meth:`ask` said has to be waited for; never raises."""
        try:
            async with asyncio.timeout(self._timeout / 1000):
                return Decision.ALLOWED if await waiting else Decision.DENIED
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not this check was cancelled, only something the plugin was waiting for.
            return self._failed(connection, message, error)
        except Exception as error:
            return self._failed(connection, message, error)

    def _failed(self, connection: Socket, message: Message, error: BaseException) -> Decision:
        if isinstance(error, TimeoutError):
            reason = "no answer in time"
        else:
            reason = str(error) if isinstance(error, PluginError) else repr(error)
        text = f"topic {message.topic} action {message.action}: {reason}"
        # A client may cause this as often as it likes.
        self._guard.warn(connection.user_id, "MESSAGE_PERMISSION_ERROR", text)
        return Decision.FAILED

    async def _wait(
        self, connection: Connection, check: _Check, decisions: list[Decision | Awaitable[Any]]
    ) -> None:
        # All at once: the time limit is that of the message, however many names it has.
        waiting = [i for i, decision in enumerate(decisions) if not isinstance(decision, Decision)]
        answers = await asyncio.gather(
            *[self.answer(connection, check.parts[i], cast(Awaitable[Any], decisions[i])) for i in waiting]
        )
        for i, answer in zip(waiting, answers, strict=True):
            decisions[i] = answer
        if connection.lane is not None:
            connection.lane.resume()

    def conclude(self, connection: Connection, check: _Check) -> None:
        """Hand on what is allowed and tell the client what is not; never raises."""
        try:
            self._conclude(connection, check)
            self._look_again(check.rules)
        except Exception as error:
            self._report_fault(error)

    def _report_fault(self, error: Exception) -> None:
        self._logger.error("PLUGIN_ERROR", f"while handling a permitted message: {error!r}")

    def _conclude(self, connection: Connection, check: _Check) -> None:
        message = check.message
        allowed: list[str] = []
        for part, decision in zip(check.parts, cast(list[Decision], check.decisions), strict=True):
            if decision is not Decision.ALLOWED:
                connection.send(refusal(part, decision))
            elif check.bulk:
                allowed.append(cast(str, part.name))
            else:
                self.router.forward(connection, part)
        if check.bulk and (allowed or not check.parts):
            kept = set(allowed)
            # Repeated names stay repeated, in their order: the handler answers each.
            names = [name for name in message.names or () if name in kept]
            self.router.forward(connection, message.replace(name=None, names=names))
