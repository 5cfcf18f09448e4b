"""Records: everything that has to wait (spec/records.md).

The core performs a step at once when the record is in the memory cache and nothing has to be waited for. All
other steps come here, into one queue per record: they wait for the storage, for a cache plugin, for a
permission or for the steps before them. A queue lives as long as it has steps.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from dsfast._core.connection import Connection
from dsfast._core.fanout import Registry
from dsfast._core.json_text import dumps, loads
from dsfast._core.protocol import Message, RecordAction, Topic
from dsfast._core.record_cache import Record, RecordCache
from dsfast._core.records import (
    STEP_DELETE,
    STEP_GET,
    STEP_HEAD,
    STEP_HOT_WRITE,
    STEP_RELOAD,
    STEP_SUBSCRIBE,
    STEP_SUBSCRIBE_CREATE_READ,
    STEP_UNSUBSCRIBE,
    RecordCore,
    Step,
)
from dsfast._core.router import VERDICT_ALLOWED, VERDICT_WAITS, Gate
from dsfast.config import RecordConfig
from dsfast.handlers.permission import Decision, PermissionGate, refusal
from dsfast.plugin import Cache, Logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dsfast.handlers.listen import ListenHandler
    from dsfast.services.storage.write_behind import Waiter, WriteBehind

__all__ = ["RecordHandler"]

T = TypeVar("T")


class LoadError(RuntimeError):
    """A record could not be read; ``action`` is what clients that wanted to read it are answered."""

    def __init__(self, action: RecordAction, text: str) -> None:
        super().__init__(text)
        self.action = action


class CacheWriteError(Exception):
    """The cache plugin did not take a change; the steps that wait are based on what it should hold now."""


class RecordHandler(RecordCore):
    """Topic RECORD."""

    def __init__(  # noqa: PLR0917 - the services it works with
        self,
        registry: Registry,
        cache: Cache,
        memory: RecordCache | None,
        writer: WriteBehind | None,
        listen: ListenHandler,
        gate: PermissionGate | None,
        core_gate: Gate | None,
        logger: Logger,
        options: RecordConfig,
    ) -> None:
        """``memory`` is the core's cache, None if ``cache`` is a plugin that has to be asked."""
        super().__init__(registry, memory, listen, logger, options)
        self.writer = writer
        self.gate = gate
        self.core_gate = core_gate
        self._plugin = cache if memory is None else None
        self._memory = memory
        self._logger = logger
        self._options = options
        self._tasks: set[asyncio.Task[None]] = set()
        self._deciding: set[bytes] = set()
        self._watches: list[set[bytes]] = []

    async def close(self) -> None:
        """Let the queues that are running come to their end."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def get_record(self, name: str) -> tuple[int, Any]:
        """Version and data as of all steps accepted so far, for permission rules; (-1, None) if missing.

        Raises RuntimeError if the record cannot be read.
        """
        key = name.encode()
        if key in self._deciding:
            # Asked while deciding about a step of this very record: its turn is now, nothing else is running.
            record = await self._load(key)
            return (-1, None) if record is None else (record.version, loads(record.text()))
        answer: asyncio.Future[tuple[int, bytes | None]] = asyncio.get_running_loop().create_future()

        def collect(version: int | None, text: Any) -> None:
            if answer.done():
                return
            if version is None:
                answer.set_exception(RuntimeError(f"record {name} cannot be read: {RecordAction(text).name}"))
            else:
                answer.set_result((version, text))

        self.submit_step(self.make_step(STEP_GET, None, RecordAction.READ, key, collect))
        version, text = await answer
        return version, None if text is None else loads(text)

    # --- queues ---

    def enqueue(self, step: Step) -> None:
        """Put a step behind the others of its record.

        A write holds the later messages of its connection until it has taken effect, so that effects keep the
        order in which a client sent its messages, whatever the storage takes.
        """
        if step.connection is not None and (
            step.is_write
            or step.kind == STEP_DELETE
            or (self.gate is not None and step.kind == STEP_SUBSCRIBE_CREATE_READ)
        ):
            step.connection.hold()
            step.holding = True
        for watch in self._watches:
            watch.add(step.key)
        queue: deque[Step] | None = self.queues.get(step.key)
        if queue is not None:
            queue.append(step)
            return
        self.queues[step.key] = queue = deque([step])
        task = asyncio.ensure_future(self._drain(step.key, queue))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self, key: bytes, queue: deque[Step]) -> None:
        absent = False  # the storage has said so, and nothing has created the record since
        while queue:
            step = queue[0]
            try:
                absent = await self._turn(step, absent)
            except LoadError as error:
                self._logger.error(error.action.name, str(error))
                self._fail_all(queue, error.action)
                continue
            except CacheWriteError as error:
                self._logger.error("RECORD_UPDATE_ERROR", str(error))
                self._fail(queue, [waiting for waiting in queue if waiting.is_write])
                continue
            except Exception as error:
                self._logger.error("RECORD_LOAD_ERROR", f"{step.name}: {error!r}")
                self.refuse(step, _failure_of(step, RecordAction.RECORD_LOAD_ERROR))
            queue.popleft()
            self._release(step)
        del self.queues[key]

    def _release(self, step: Step) -> None:
        if step.holding:
            step.holding = False
            step.connection.release()

    def _fail_all(self, queue: deque[Step], action: RecordAction) -> None:
        """Every step that waits now would only fail after another wait: answer them all."""
        steps = [step for step in queue if step.kind not in (STEP_SUBSCRIBE, STEP_UNSUBSCRIBE)]
        self._fail(queue, steps, action)

    def _fail(
        self,
        queue: deque[Step],
        steps: list[Step],
        action: RecordAction = RecordAction.RECORD_LOAD_ERROR,
    ) -> None:
        for step in steps:
            queue.remove(step)
        for step in steps:
            self.refuse(step, _failure_of(step, action))
            self._release(step)

    async def _turn(self, step: Step, absent: bool) -> bool:
        """Perform the step at the head of the queue; returns whether the record is known to be missing."""
        if step.kind in (STEP_SUBSCRIBE, STEP_UNSUBSCRIBE):
            self.perform_now(step, None)
            return absent
        if step.kind == STEP_RELOAD:
            await self._reload(step)
            return False
        record: Record | None = None
        if step.kind != STEP_HOT_WRITE:
            record = await self._load(step.key, absent)
            absent = record is None
        elif self._memory is not None:
            record = self.find_cached(step.key)  # what the storage holds does not matter
        if self.gate is not None and not await self._permitted(step, record):
            return absent
        if step.kind == STEP_DELETE:
            await self._delete(step, record)
            return False
        if step.is_write and (self.strict or self._plugin is not None):
            await self._write(step, record)
        elif self._plugin is None:
            self.perform_now(step, record)
            return absent and self.find_cached(step.key) is None
        else:
            await self._perform_with_plugin(step, record)
        return False

    async def _write(self, step: Step, record: Record | None) -> None:
        """A write that nobody is told about before a cache plugin, or the storage, has confirmed it."""
        changed = self.prepare(step, record)
        if changed is None:
            return
        if self._plugin is not None:
            try:
                await self._set_in_plugin(step.name, changed.version, loads(changed.text()))
            except Exception as error:
                raise CacheWriteError(f"{step.name}: {error}") from error
        writer = self.writer
        if self.strict and writer is not None and self.stored(step.key):
            try:
                await _confirmed(lambda waiter: writer.put(step.name, changed, waiter=waiter))
            except Exception as error:
                # Whether it is stored is unknown; what is cached must not say that it is.
                self._logger.error("RECORD_UPDATE_ERROR", f"{step.name}: {error}")
                if self._memory is not None:
                    self.forget_cached(step.key)
                self.refuse(step, RecordAction.RECORD_UPDATE_ERROR)
                return
            step.durable = True
        self.commit_now(step, changed)

    async def _perform_with_plugin(self, step: Step, record: Record | None) -> None:
        """As ``perform_now``, with a cache that has to confirm a creation before anybody is told."""
        if step.kind == STEP_SUBSCRIBE_CREATE_READ and record is None:
            try:
                await self._set_in_plugin(step.name, 0, {})
            except Exception as error:
                self._logger.error("RECORD_CREATE_ERROR", f"cache:{error}")
                self.refuse(step, RecordAction.RECORD_CREATE_ERROR)
                return
            self.perform_now(step, self.new_record(step))
        else:
            self.perform_now(step, record)

    async def _set_in_plugin(self, name: str, version: int, data: Any) -> None:
        assert self._plugin is not None
        limit = self._options.cache_retrieval_timeout
        await _within(limit, "cache timeout", self._plugin.set(name, version, data))

    # --- reading (section 3) ---

    async def _load(self, key: bytes, absent: bool = False) -> Record | None:
        """The record from the cache, else from the storage. Raises LoadError."""
        if self._memory is not None:
            record = self.find_cached(key)
            if record is not None:
                return record
        else:
            record = await self._load_from_plugin(key)
            if record is not None:
                return record
        if absent or self.writer is None or not self.stored(key):
            return None
        name = key.decode()
        async with self._limit("storage", name, self._options.storage_retrieval_timeout):
            version, text = await self.writer.get(name)
            if text is None or text == b"null":
                return None
            record = self.admit(key, version, text, True)
        if self._plugin is not None:
            try:
                await self._set_in_plugin(name, version, loads(text))
            except Exception as error:
                self._logger.error("RECORD_LOAD_ERROR", f"error while copying {name} to the cache:{error}")
        return record

    async def _load_from_plugin(self, key: bytes) -> Record | None:
        assert self._plugin is not None
        name = key.decode()
        async with self._limit("cache", name, self._options.cache_retrieval_timeout):
            version, data = await self._plugin.get(name)
            return None if data is None else self.admit(key, version, dumps(data), True)

    @asynccontextmanager
    async def _limit(self, source: str, name: str, milliseconds: float) -> AsyncIterator[None]:
        """Turn what goes wrong while asking the cache or the storage into a LoadError."""
        limit = asyncio.timeout(milliseconds / 1000)
        try:
            async with limit:
                yield
        except Exception as error:
            if limit.expired():
                late = (
                    RecordAction.CACHE_RETRIEVAL_TIMEOUT
                    if source == "cache"
                    else RecordAction.STORAGE_RETRIEVAL_TIMEOUT
                )
                raise LoadError(late, name) from None
            text = f"error while loading {name} from {source}:{error}"
            raise LoadError(RecordAction.RECORD_LOAD_ERROR, text) from error

    # --- permission ---

    async def _permitted(self, step: Step, record: Record | None) -> bool:
        """Check what could not be checked on arrival; the sender of a refused step has been answered."""
        if step.kind in (STEP_SUBSCRIBE, STEP_UNSUBSCRIBE, STEP_GET, STEP_RELOAD):
            return True
        if self.core_gate is not None:
            verdict = self.turn_now(step, record)
            if verdict != VERDICT_WAITS:
                return verdict == VERDICT_ALLOWED
        gate: PermissionGate = self.gate
        checks: list[int] = []
        if step.kind == STEP_DELETE:
            checks = [RecordAction.DELETE]
        elif step.is_write and step.upsert:
            patch = step.normal == RecordAction.PATCH
            checks = [RecordAction.CREATE, RecordAction.PATCH if patch else RecordAction.UPDATE]
        elif step.is_write:
            # A patch without data erases, and needs the right to.
            checks = [RecordAction.ERASE if step.data is None else step.action]
        elif step.kind == STEP_SUBSCRIBE_CREATE_READ:
            # Both before anything is created: a record that its creator may not read would be left over.
            checks = [RecordAction.READ] if record is not None else [RecordAction.CREATE, RecordAction.READ]
        elif self.core_gate is not None:
            checks = [step.action]  # a read that waited behind changes of what its rule looks at
        self._deciding.add(step.key)
        try:
            for action in checks:
                decision = await gate.decide(step.connection, step.message(action))
                if decision is not Decision.ALLOWED:
                    step.connection.send(refusal(step.message(action), decision, step.action))
                    return False
            if record is None:
                step.may_read = True  # nothing to hide
            elif step.is_write and step.shows_record(record.version):
                # The answer to a conflict contains the record.
                read = await gate.decide(step.connection, step.message(RecordAction.READ))
                step.may_read = read is Decision.ALLOWED
        finally:
            self._deciding.discard(step.key)
        return True

    # --- delete and notify (sections 9 and 10) ---

    async def _delete(self, step: Step, record: Record | None) -> None:
        options = self._options
        parts: list[Awaitable[None]] = []
        if self._plugin is not None:
            removing = self._plugin.delete(step.name)
            parts.append(_within(options.cache_retrieval_timeout, "cache timeout", removing))
        if self.writer is not None and self.stored(step.key):
            removing = self._delete_stored(step.name)
            parts.append(_within(options.storage_retrieval_timeout, "storage timeout", removing))
        outcomes = await asyncio.gather(*parts, return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if not errors:
            self.perform_now(step, record)
            return
        self._logger.error("RECORD_DELETE_ERROR", ", ".join(map(str, errors)))
        if self._memory is not None:
            if any(isinstance(error, LateError) for error in errors):
                # The storage will delete it as soon as it can; serving it on would bring it back.
                self.forget_cached(step.key)
            elif record is not None:
                self._keep(record)
        self.refuse(step, RecordAction.RECORD_DELETE_ERROR)

    async def _delete_stored(self, name: str) -> None:
        writer = self.writer
        assert writer is not None
        await _confirmed(lambda waiter: writer.delete(name, waiter))

    def _keep(self, record: Record) -> None:
        """The storage refused to delete a record: what it had not saved before is still to be saved."""
        try:
            self.store_again(record)
        except Exception as error:
            self._logger.error("RECORD_UPDATE_ERROR", str(error))

    async def _reload(self, step: Step) -> None:
        """Forget what is cached, and tell the subscribers what the storage holds.

        What is still to be written stays: it will replace what the storage holds.
        """
        if self._memory is not None and (self.writer is None or not self.writer.is_unsaved(step.name)):
            self.forget_cached(step.key)
        if not self.registry.has(step.name):
            if step.collector is not None:
                step.collector(step.name, -1)
            return
        self.perform_now(step, await self._load(step.key))

    def notify(self, connection: Connection, names: list[str], message: Message) -> None:
        """NOTIFY: records were changed behind the server's back."""

        def finished(_: dict[str, int]) -> None:
            connection.send_ack(
                Message(Topic.RECORD, RecordAction.NOTIFY, names=names, correlation_id=message.correlation_id)
            )

        def reload() -> None:
            self._for_each(STEP_RELOAD, connection, RecordAction.NOTIFY, names, finished)

        if self._plugin is None:
            reload()
            return
        plugin = self._plugin

        async def forget_first() -> None:
            try:
                limit = self._options.cache_retrieval_timeout
                await _within(limit, "cache timeout", plugin.delete_bulk(names))
            except Exception as error:
                self._logger.error("RECORD_NOTIFY_ERROR", str(error))
                text = "Error deleting messages in bulk when attempting to notify of remote changes"
                connection.send(
                    Message(
                        Topic.RECORD,
                        RecordAction.RECORD_NOTIFY_ERROR,
                        is_error=True,
                        data=dumps(text),
                        correlation_id=message.correlation_id,
                    )
                )
            else:
                reload()
            finally:
                connection.release()

        connection.hold()
        self._spawn(forget_first())

    def head_bulk(self, connection: Connection, names: list[str], correlation_id: bytes | None) -> None:
        """HEAD_BULK: one answer with the versions of all names, -1 for missing ones."""

        def finished(versions: dict[str, int]) -> None:
            connection.send(
                Message(
                    Topic.RECORD,
                    RecordAction.HEAD_RESPONSE_BULK,
                    versions=versions,
                    correlation_id=None if correlation_id is None else correlation_id.decode(),
                )
            )

        self._for_each(STEP_HEAD, connection, RecordAction.HEAD_BULK, names, finished)

    def _for_each(
        self,
        kind: int,
        connection: Connection,
        action: RecordAction,
        names: list[str],
        finished: Callable[[dict[str, int]], None],
    ) -> None:
        """A step for each name; ``finished(versions)`` when all have been answered."""
        versions: dict[str, int] = {}
        open_steps = len(names)

        def collect(name: str, version: int | None) -> None:
            nonlocal open_steps
            if version is not None:
                versions[name] = version
            open_steps -= 1
            if not open_steps:
                finished(versions)

        if not names:
            finished(versions)
        for name in names:
            self.submit_step(self.make_step(kind, connection, action, name.encode(), collect))

    def plugin_subscribe_and_head(self, connection: Connection, names: list[str], message: Message) -> None:
        """SUBSCRIBEANDHEAD with a cache plugin: its head_bulk is the quick answer (section 4.3)."""
        connection.hold()
        self._spawn(self._subscribe_and_head(connection, names, message))

    async def _subscribe_and_head(self, connection: Connection, names: list[str], message: Message) -> None:
        assert self._plugin is not None
        # Names that are worked on meanwhile: their heads may be out of date when they come.
        busy = set(self.queues)
        self._watches.append(busy)
        try:
            limit = self._options.cache_retrieval_timeout
            heads, _ = await _within(limit, "cache timeout", self._plugin.head_bulk(names))
            known = [name for name in names if heads.get(name, -1) >= 0 and name.encode() not in busy]
            found = {name: heads[name] for name in known}
        except Exception as error:
            self._logger.error("RECORD_LOAD_ERROR", f"error while loading heads from cache:{error}")
            for name in names:
                connection.send(
                    Message(
                        Topic.RECORD,
                        RecordAction.RECORD_LOAD_ERROR,
                        original_action=message.action,
                        name=name,
                        is_error=True,
                    )
                )
        else:
            connection.send(Message(Topic.RECORD, RecordAction.HEAD_RESPONSE_BULK, versions=found))
            for name in names:
                key = name.encode()
                if key in busy:
                    self.submit_step(self.make_step(STEP_SUBSCRIBE, connection, message.action, key))
                elif not connection.is_closed:
                    self.subscribe_name(connection, name, message.action)
            connection.send_ack(Message(Topic.RECORD, message.action, correlation_id=message.correlation_id))
            for name in names:
                if name not in found:
                    self.submit_step(self.make_step(STEP_HEAD, connection, message.action, name.encode()))
        finally:
            self._watches = [watch for watch in self._watches if watch is not busy]
            connection.release()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class LateError(Exception):
    """A plugin did not answer in time."""


async def _confirmed(queue: Callable[[Waiter], None]) -> None:
    """Queue an operation for the storage and wait until it is durable; raises what it failed with."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(error: Exception | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    queue(answered)
    await done


async def _within(milliseconds: float, late: str, work: Awaitable[T]) -> T:
    """The result of a call of a plugin. Raises :class:`LateError` with ``late`` if it takes too long."""
    limit = asyncio.timeout(milliseconds / 1000)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if limit.expired():
            raise LateError(late) from None
        raise


def _failure_of(step: Step, action: RecordAction) -> RecordAction:
    """What a step that failed is answered; ``action`` if it only wanted to read."""
    if step.is_write:
        return RecordAction.RECORD_UPDATE_ERROR
    return RecordAction.RECORD_DELETE_ERROR if step.kind == STEP_DELETE else action
