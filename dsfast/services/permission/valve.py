"""Permission ``config``: the rules of a permission file (valve.md). The core decides; this waits for records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from dsfast._core.records import RecordCore
from dsfast._core.valve import RuleError
from dsfast._core.valve_gate import Binding, RuleTable, Run, ValveGate, rule_type
from dsfast.plugin import Permission, PluginError, RecordHandler, Socket
from dsfast.services.permission.rules import RuleFileError, RuleSet

if TYPE_CHECKING:
    from dsfast._core.protocol import Message
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["ValvePermission"]


class ValvePermission(Permission):
    """Decides by the rules of a permission file.

    A server asks :attr:`core` first, which decides without Python what needs no waiting;
    :meth:`can_perform_action` is complete, for everybody else.
    """

    description = "Valve Permissions"

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._records: RecordHandler | None = None
        self._max_runs: int = options["maxRuleIterations"]
        self._sweep_interval: float = options["cacheEvacuationInterval"] / 1000
        self._sweeper: asyncio.TimerHandle | None = None
        self._changed: list[Callable[[], object]] = []
        self.core: ValveGate

    def init(self) -> None:
        """Read the rules. Raises :class:`PluginError` if they are invalid."""
        try:
            rules = self._read(self.options["permissions"])
        except RuleFileError as error:
            raise PluginError(f"invalid permission config - {error}") from None
        self.core = ValveGate(RuleTable(rules), self._max_runs)
        self._sweep()

    async def close(self) -> None:
        """Stop the timer of the rule cache."""
        if self._sweeper is not None:
            self._sweeper.cancel()

    def set_record_handler(self, handler: RecordHandler) -> None:
        """Where rules find the records they refer to."""
        self._records = handler
        if isinstance(handler, RecordCore):
            self.core.set_records(handler)

    def use_config(self, permissions: Any) -> None:
        """Replace all rules at once; checks that are running finish with the rules they started with.

        ``permissions`` is the content of a permission file. Raises :class:`RuleFileError`, and then the old
        rules stay.
        """
        self.core.use(RuleTable(self._read(permissions)))
        self.logger.info("INFO", "permission rules replaced")
        for callback in self._changed:
            callback()

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` whenever the rules have been replaced."""
        self._changed.append(callback)

    def can_perform_action(self, socket: Socket, message: Message) -> bool | Awaitable[bool]:
        """What the rule for the message says; see :class:`Permission`. Raises :class:`PluginError`."""
        if rule_type(message.topic, message.action) is None:
            return True
        binding = self.core.table.bind(message.topic, message.action, message.name)
        if binding is None:
            return False
        if binding.rule.constant >= 0:
            return binding.rule.constant == 1
        try:
            run = Run(binding, socket.user_id, socket.server_data, message)
            allowed, missing = run.attempt({})
        except RuleError as error:
            raise _failure(binding, message, str(error)) from None
        return self._wait(run, binding, message, missing) if missing else allowed

    async def _wait(self, run: Run, binding: Binding, message: Message, missing: set[str]) -> bool:
        """Load what is missing and evaluate again, as often as ``maxRuleIterations`` allows (section 8)."""
        known: dict[str, Any] = {}
        for _ in range(1, self._max_runs):
            known |= await self._load(missing)
            try:
                allowed, missing = run.attempt(known)
            except RuleError as error:
                raise _failure(binding, message, str(error)) from None
            if not missing:
                return allowed
        raise _failure(binding, message, "Exceeded max iteration count")

    async def _load(self, names: set[str]) -> dict[str, Any]:
        """The data of records, None for those that do not exist. Raises :class:`PluginError`."""
        if self._records is None:
            return dict.fromkeys(names)
        order = list(names)
        states = await asyncio.gather(*map(self._records.get_record, order), return_exceptions=True)
        found = {}
        for name, state in zip(order, states, strict=True):
            if isinstance(state, BaseException):
                raise PluginError(f"failed to load record {name} for permissioning:{state}") from state
            found[name] = state[1]
        return found

    def _read(self, permissions: Any) -> RuleSet:
        rules = RuleSet.load(permissions)
        for warning in rules.warnings:
            self.logger.warn("INVALID_CONFIG_DATA", warning)
        return rules

    def _sweep(self) -> None:
        self.core.table.sweep()
        self._sweeper = asyncio.get_running_loop().call_later(self._sweep_interval, self._sweep)


def _failure(binding: Binding, message: Message, reason: str) -> PluginError:
    return PluginError(f"error when executing {binding.rule.source} for {message.name}: {reason}")
