"""Permission ``config``: the rules of a permission file (valve.md). What must wait, waits here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsfast._core.protocol import RecordAction, Topic
from dsfast._core.records import RecordCore
from dsfast._core.valve import RuleError
from dsfast._core.valve_gate import Binding, RuleTable, Run, ValveGate, rule_type
from dsfast.config import ConfigError, read_document
from dsfast.config.files import resolve_path
from dsfast.plugin import Permission, PluginError, RecordHandler, Socket
from dsfast.services.permission.rules import RuleFileError, RuleSet, read_rules

if TYPE_CHECKING:
    from dsfast._core.protocol import Message
    from dsfast.config import Config
    from dsfast.config.schema import ValveOptions
    from dsfast.services import Services

__all__ = ["ValvePermission"]


class ValvePermission(Permission):
    """Decides by the rules of a permission file.

    A server asks :attr:`core` first, which decides without Python what needs no waiting;
    :meth:`can_perform_action` is complete, for everybody else.
    """

    description = "Valve Permissions"

    options: ValveOptions

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._records: RecordHandler | None = None
        self._max_runs = self.options.max_rule_iterations
        self._changed: list[Callable[[], object]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()  # else an older state of the file could be the last to be used
        self.core: ValveGate

    @property
    def core_gate(self) -> ValveGate | None:
        """:attr:`core`, unless a subclass decides otherwise than it."""
        own = type(self).can_perform_action is ValvePermission.can_perform_action
        return self.core if own else None

    def init(self) -> None:
        """Read the rules. Raises :class:`PluginError` if they are invalid."""
        seen = None if self._file is None else _identity(self._file)
        try:
            rules = self._read()
        except (RuleFileError, ConfigError) as error:
            raise PluginError(f"invalid permission config - {_text(error)}") from None
        self.core = ValveGate(self._table(rules), self._max_runs)
        self._sweep()
        if self.options.watch_interval is not None and self._file is not None:
            interval = self.options.watch_interval / 1000
            self._watcher = asyncio.ensure_future(self._watch(self._file, seen, interval))

    async def when_ready(self) -> None:
        """Warn if clients may read what they had better not."""
        self._warn_of_readable_users()

    async def close(self) -> None:
        """End the timers."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

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
        self._use(RuleSet.load(permissions))

    async def reload(self) -> bool:
        """Read the file of the rules again and use it; False if it is invalid, and the old rules stay."""
        async with self._reloading:
            try:
                rules = await asyncio.to_thread(self._read)
            except (RuleFileError, ConfigError) as error:
                text = f"the old permission rules stay: invalid permission config - {_text(error)}"
                self.logger.error("INVALID_CONFIG_DATA", text)
                return False
            self._use(rules)
            return True

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` whenever the rules have been replaced, unless ``revalidateOnReload`` is off."""
        self._changed.append(callback)

    def can_perform_action(self, socket: Socket, message: Message) -> bool | Awaitable[bool]:
        """What the rule for the message says; see :class:`Permission`. Raises :class:`PluginError`."""
        if rule_type(message.topic, message.action) is None:
            return True
        binding = self.core.table.bind(message.topic, message.action, message.name)
        if binding is None:
            return False
        if binding.error is not None:
            raise _failure(binding, message, binding.error)
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

    @property
    def _file(self) -> Path | None:
        """The file the rules come from; None if they stand in the configuration or were given in code."""
        source = self.config.source
        if self.options.path is not None:
            return Path(resolve_path(self.options.path, source.directory))
        return source.loaded.get("/permission/options/permissions")

    def _read(self) -> RuleSet:
        """The rules as they are now. Raises RuleFileError or ConfigError."""
        if self._file is not None:
            return read_rules(self._file)
        source = self.config.source
        if source.file is not None and self.options.permissions is not None:
            document = read_document(source.file)
            section: Any = document.value
            for key in ("permission", "options", "permissions"):
                section = section.get(key) if isinstance(section, Mapping) else None
            if section is not None:
                return RuleSet.load(section)
        return RuleSet.load(self.options.permissions)

    def _table(self, rules: RuleSet) -> RuleTable:
        for warning in rules.warnings:
            self.logger.warn("INVALID_CONFIG_DATA", warning)
        return RuleTable(rules)

    def _use(self, rules: RuleSet) -> None:
        self.core.use(self._table(rules))
        self.logger.info("INFO", "new permission rules are in use")
        self._warn_of_readable_users()
        if self.options.revalidate_on_reload:
            for callback in self._changed:
                callback()

    def _warn_of_readable_users(self) -> None:
        """Users of the storage authentication are records, with their passwords' hashes."""

        def is_readable(name: str) -> bool:
            binding = self.core.table.bind(Topic.RECORD, RecordAction.READ, name)
            return binding is not None and binding.rule.constant == 1

        authentication = getattr(self.services, "authentication", None)
        if authentication is not None:
            authentication.warn_if_readable(is_readable)

    def _sweep(self) -> None:
        self.core.table.sweep()
        interval = self.options.cache_evacuation_interval / 1000
        self._sweeper = asyncio.get_running_loop().call_later(interval, self._sweep)

    async def _watch(self, file: Path, seen: tuple[int, int, int] | None, interval: float) -> None:
        """Reload when the file is another one than the one that was ``seen``."""
        while True:
            await asyncio.sleep(interval)
            now = _identity(file)
            # A file that is missing is being replaced: what counts is what comes.
            if now is not None and now != seen:
                seen = now
                await self.reload()


def _identity(file: Path) -> tuple[int, int, int] | None:
    """What tells one state of a file from another."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def _text(error: RuleFileError | ConfigError) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    return f"{error} ({error.place})" if error.place else str(error)


def _failure(binding: Binding, message: Message, reason: str) -> PluginError:
    return PluginError(binding.failure(message.name, reason))
