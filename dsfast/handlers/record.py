"""Records: everything that has to wait (spec/records.md).

The core performs a step at once when the record is in the memory cache and nothing has to be waited for. All
other steps come here, into one queue per record: they wait for the storage, for a cache plugin, for a permission or
for the steps before them. A queue lives as long as it has steps.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dsfast._core.connection import Connection
from dsfast._core.fanout import Registry
from dsfast._core.json_text import dumps, loads
from dsfast._core.protocol import Message, RecordAction, Topic
from dsfast._core.records import (
    STEP_DELETE,
    STEP_GET,
    STEP_HEAD,
    STEP_HOT_WRITE,
    STEP_RELOAD,
    STEP_SUBSCRIBE,
    STEP_SUBSCRIBE_CREATE_READ,
    STEP_UNSUBSCRIBE,
    Record,
    RecordCache,
    RecordCore,
    Step,
)
from dsfast.config import RecordConfig
from dsfast.handlers.permission import Decision, PermissionGate, refusal
from dsfast.plugin import Cache, Logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dsfast.handlers.listen import ListenHandler
    from dsfast.services.storage.write_behind import WriteBehind

__all__ = ["RecordHandler"]


class LoadError(Exception):
    """A record could not be read; ``action`` is what clients that wanted to read it are answered."""

    def __init__(self, action: RecordAction, text: str) -> None:
        super().__init__(text)
        self.action = action


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
        logger: Logger,
        options: RecordConfig,
    ) -> None:
        """``memory`` is the core's cache, None if ``cache`` is a plugin that has to be asked."""
        super().__init__(registry, memory, listen, logger, options)
        self.writer = writer
        self.gate = gate
        self._plugin = cache if memory is None else None
        self._memory = memory
        self._logger = logger
        self._options = options
        self._tasks: set[asyncio.Task[None]] = set()
        self._deciding: set[bytes] = set()

    async def close(self) -> None:
        """Let the queues that are running come to their end."""
        if self._tasks:
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
                self._fail_all(queue, error)
                continue
            except Exception as error:
                self._logger.error("RECORD_UPDATE_ERROR", f"{step.name}: {error!r}")
                self.refuse(step, RecordAction.RECORD_UPDATE_ERROR)
            queue.popleft()
            self._release(step)
        del self.queues[key]

    def _release(self, step: Step) -> None:
        if step.holding:
            step.holding = False
            step.connection.release()

    def _fail_all(self, queue: deque[Step], error: LoadError) -> None:
        """Every step that waits now would only fail after another wait: answer them all."""
        for step in [step for step in queue if step.kind not in (STEP_SUBSCRIBE, STEP_UNSUBSCRIBE)]:
            queue.remove(step)
            if step.is_write:
                self.refuse(step, RecordAction.RECORD_UPDATE_ERROR)
            elif step.kind == STEP_DELETE:
                self.refuse(step, RecordAction.RECORD_DELETE_ERROR)
            else:
                self.refuse(step, error.action)
            self._release(step)

    async def _turn(self, step: Step, absent: bool) -> bool:
        """Perform the step at the head of the queue; returns whether the record is known to be missing."""
        if step.kind in (STEP_SUBSCRIBE, STEP_UNSUBSCRIBE):
            self.perform_now(step, None)
            return absent
        if step.kind == STEP_RELOAD:
            await self._reload(step)
            return False
        record: Record | None
        if step.kind == STEP_HOT_WRITE and self._memory is not None:
            record = self.find_cached(step.key)
        else:
            record = await self._load(step.key, absent)
        absent = record is None
        if self.gate is not None and not await self._permitted(step, record):
            return absent
        if step.kind == STEP_DELETE:
            await self._delete(step, record)
            return False
        if self._plugin is None:
            self.perform_now(step, record)
            return absent and self.find_cached(step.key) is None
        await self._perform_with_plugin(step, record)
        return False

    async def _perform_with_plugin(self, step: Step, record: Record | None) -> None:
        """As ``perform_now``, with a cache that has to confirm each change before anybody is told."""
        cache = self._plugin
        assert cache is not None
        if step.is_write:
            changed = self.prepare(step, record)
            if changed is not None:
                await cache.set(step.name, changed.version, loads(changed.text()))
                self.commit_now(step, changed)
        elif step.kind == STEP_SUBSCRIBE_CREATE_READ and record is None:
            try:
                await cache.set(step.name, 0, {})
            except Exception as error:
                self._logger.error("RECORD_CREATE_ERROR", str(error))
                self.refuse(step, RecordAction.RECORD_CREATE_ERROR)
                return
            self.perform_now(step, self.new_record(step))
        else:
            self.perform_now(step, record)

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
        if text is None:
            return None
        if self._plugin is not None:
            try:
                await self._plugin.set(name, version, loads(text))
            except Exception as error:
                self._logger.error("RECORD_LOAD_ERROR", f"error while copying {name} to the cache:{error}")
        return self.admit(key, version, text, True)

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
        gate: PermissionGate = self.gate
        checks: list[RecordAction] = []
        if step.is_write and step.upsert:
            patch = step.normal == RecordAction.PATCH
            checks = [RecordAction.CREATE, RecordAction.PATCH if patch else RecordAction.UPDATE]
        elif step.kind == STEP_SUBSCRIBE_CREATE_READ:
            # Both before anything is created: a record that its creator may not read would be left over.
            checks = [RecordAction.READ] if record is not None else [RecordAction.CREATE, RecordAction.READ]
        self._deciding.add(step.key)
        try:
            for action in checks:
                decision = await gate.decide(step.connection, step.message(action))
                if decision is not Decision.ALLOWED:
                    step.connection.send(refusal(step.message(action), decision, step.action))
                    return False
            if (
                step.is_write
                and record is not None
                and step.has_version
                and -1 != step.version <= record.version
            ):
                # The answer to a conflict contains the record.
                read = await gate.decide(step.connection, step.message(RecordAction.READ))
                step.may_read = read is Decision.ALLOWED
        finally:
            self._deciding.discard(step.key)
        return True

    # --- delete and notify (sections 9 and 10) ---

    async def _delete(self, step: Step, record: Record | None) -> None:
        limit = self._options.storage_retrieval_timeout
        try:
            if self._plugin is not None:
                async with asyncio.timeout(self._options.cache_retrieval_timeout / 1000):
                    await self._plugin.delete(step.name)
            if self.writer is not None and self.stored(step.key):
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

                def answered(error: Exception | None) -> None:
                    if not done.done():
                        if error is None:
                            done.set_result(None)
                        else:
                            done.set_exception(error)

                self.writer.delete(step.name, answered)
                async with asyncio.timeout(limit / 1000):
                    await done
        except Exception as error:
            text = "storage timeout" if isinstance(error, TimeoutError) else str(error)
            self._logger.error("RECORD_DELETE_ERROR", text)
            if self._memory is not None:
                # The storage will delete it as soon as it can; serving it on would bring it back.
                self.forget_cached(step.key)
            self.refuse(step, RecordAction.RECORD_DELETE_ERROR)
            return
        self.perform_now(step, record)

    async def _reload(self, step: Step) -> None:
        """Forget what is cached, and tell the subscribers what the storage holds.

        What the storage does not keep cannot have changed there: it stays.
        """
        if self.stored(step.key) and self._memory is not None:
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
                await plugin.delete_bulk(names)
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
        self._spawn(self._subscribe_and_head(connection, names, message))

    async def _subscribe_and_head(self, connection: Connection, names: list[str], message: Message) -> None:
        assert self._plugin is not None
        connection.hold()
        try:
            try:
                async with asyncio.timeout(self._options.cache_retrieval_timeout / 1000):
                    found, missing = await self._plugin.head_bulk(names)
            except Exception as error:
                self._logger.error("RECORD_LOAD_ERROR", f"error while loading heads from cache:{error!r}")
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
                return
            connection.send(Message(Topic.RECORD, RecordAction.HEAD_RESPONSE_BULK, versions=found))
            for name in names:
                if not connection.is_closed:
                    self.subscribe_name(connection, name, message.action)
            connection.send_ack(Message(Topic.RECORD, message.action, correlation_id=message.correlation_id))
            for name in missing:
                self.submit_step(self.make_step(STEP_HEAD, connection, message.action, name.encode()))
        finally:
            connection.release()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
