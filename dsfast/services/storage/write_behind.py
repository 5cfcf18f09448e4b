"""The write-behind layer: one queue of unsaved changes in front of a storage (storages.md section 3).

The server puts the newest state of a record here whenever it changes and goes on. What has gathered is
written in batches; a record that changes a hundred times between two flushes is written once. Reads look here
first, so nobody sees an older state than the one that was put.

Everything runs on the event loop thread.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from dsfast.plugin import Logger, NamespacedLogger, Storage
from dsfast.services.storage.batch import (
    BatchStorage,
    PermanentStorageError,
    StorageClosed,
    StorageFull,
    TransientStorageError,
    WriteAckTimeout,
    WriteOp,
    decode_json,
    encode_json,
    is_permanent,
    is_transient,
)

__all__ = ["Snapshot", "TextSnapshot", "WriteBehind", "WriteBehindCounters"]

Waiter = Callable[[Exception | None], None]

MIN_BACKOFF = 0.05
MAX_BACKOFF = 5.0
MAX_CONCURRENT = 64
"""Operations that a plain storage plugin works on at the same time."""
MAX_TRIES = 3
"""Attempts for an error that is neither a transient nor a permanent one."""
FAILURES_TO_BLOCK = 8
"""Transient failures without a success in between after which a plain storage counts as down."""
LOG_INTERVAL = 60.0
NAMED_ERRORS_PER_FLUSH = 10
NO_DEADLINE = math.inf


class Snapshot(Protocol):
    """State of one record, turned into text only when it is written.

    It may be a live object: between :meth:`WriteBehind.put` and :meth:`taken` every change of it is covered
    by that one ``put``. An attribute ``size`` (bytes, an estimate) is used for the memory bound if it exists.
    """

    @property
    def version(self) -> int:
        """Version of the present state."""

    def text(self) -> bytes:
        """The present state as JSON."""

    def taken(self) -> None:
        """The layer is done with the present state: its text was taken, or a later operation replaced it. A
        later change needs a new ``put``."""

    def saved(self, version: int) -> None:
        """The state with this version, or a newer one, is durable."""


class TextSnapshot:
    """A finished state of a record, for callers that have no live object."""

    __slots__ = ("_text", "size", "version")

    def __init__(self, version: int, text: bytes) -> None:
        self.version = version
        self._text = text
        self.size = len(text)

    def text(self) -> bytes:
        """The JSON text given to the constructor."""
        return self._text

    def taken(self) -> None:
        """Nothing to do: the state never changes."""

    def saved(self, version: int) -> None:
        """Nothing to do: whoever wants to know passes a waiter."""


class WriteBehindCounters:
    """Counters since the start, all monotonic except ``last_flush`` (seconds)."""

    __slots__ = (
        "ack_timeouts", "failed", "flush_seconds", "flushes", "last_flush", "lost", "max_flush", "refused",
        "retries", "saved", "superseded",
    )  # fmt: skip

    def __init__(self) -> None:
        self.saved = 0
        """Operations confirmed by the storage."""
        self.superseded = 0
        """Operations replaced by a later one before they were written."""
        self.failed = 0
        """Operations given up after a permanent error."""
        self.retries = 0
        """Operations sent again after a transient error."""
        self.refused = 0
        """Operations refused because the queue was full."""
        self.lost = 0
        """Operations not saved when the layer was closed."""
        self.ack_timeouts = 0
        """Waiters that were told that their write is not confirmed yet."""
        self.flushes = 0
        """Batches (plain storages: operations) sent."""
        self.flush_seconds = 0.0
        """Total time that flushes took."""
        self.last_flush = 0.0
        self.max_flush = 0.0


class _Entry(WriteOp):
    """The newest operation of one name and those who wait for it."""

    __slots__ = ("since", "size", "snapshot", "tries", "waiters")

    def __init__(self, name: str, snapshot: Snapshot | None, forced: bool, size: int, since: float) -> None:
        self.name = name
        self.version = -1
        self.text = None  # not taken yet, or a delete
        self.forced = forced
        self.snapshot = snapshot  # None is a delete
        self.size = size
        self.since = since
        self.tries = 0
        self.waiters: list[tuple[float, Waiter]] | None = None

    def state(self) -> tuple[int, bytes | None]:
        if self.snapshot is None:
            return -1, None
        if self.text is None:
            return self.snapshot.version, self.snapshot.text()
        return self.version, self.text


class _Load:
    """One request to the storage that several readers share."""

    __slots__ = ("readers", "stale", "task")

    def __init__(self, task: asyncio.Task[tuple[int, bytes | None]]) -> None:
        self.task = task
        self.readers = 0
        self.stale = False


class WriteBehind:
    """Queue of unsaved changes in front of one storage.

    Parameters: ``flush_interval`` in milliseconds (None: what the storage prefers); ``max_pending`` entries
    and ``max_pending_bytes`` bound what is unsaved; ``flush_entries`` and ``flush_bytes`` are the amounts
    that trigger a flush; ``batch_entries`` and ``batch_bytes`` bound one batch, and so the time that one loop
    turn spends on making text; ``write_ack_timeout`` and ``shutdown_timeout`` in milliseconds. ``clock``
    (seconds) and ``call_later`` (seconds, callback) are those of the running loop unless a test replaces
    them.

    A :class:`~dsfast.services.storage.batch.BatchStorage` gets one batch at a time. Any other storage gets up
    to 64 operations at a time, never two of one name.

    Errors of the storage: transient ones (``is_transient``) are retried for ever with a back-off of 50 ms to
    5 s; a permanent one ends that operation alone. Any other exception is tried three times and then
    permanent. Writes have no time limit of their own: giving one up could let it overtake its successor.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        logger: Logger | NamespacedLogger,
        flush_interval: float | None = None,
        max_pending: int = 200_000,
        max_pending_bytes: int = 256 << 20,
        flush_entries: int = 1000,
        flush_bytes: int = 4 << 20,
        batch_entries: int = 2000,
        batch_bytes: int = 8 << 20,
        write_ack_timeout: float = 30_000,
        shutdown_timeout: float = 10_000,
        clock: Callable[[], float] | None = None,
        call_later: Callable[[float, Callable[[], None]], Any] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._storage = storage
        self._batches = storage if isinstance(storage, BatchStorage) else None
        self._logger = logger
        if flush_interval is None:
            flush_interval = storage.flush_interval if isinstance(storage, BatchStorage) else 10.0
        self._flush_interval = flush_interval / 1000
        self._max_pending = max_pending
        self._max_bytes = max_pending_bytes
        self._flush_entries = flush_entries
        self._flush_bytes = flush_bytes
        self._batch_entries = batch_entries
        self._batch_bytes = batch_bytes
        self._ack_timeout = write_ack_timeout / 1000
        self._shutdown_timeout = shutdown_timeout / 1000
        self._ack_when_queued = self._batches is not None and self._batches.acks_when_queued
        self._clock = clock or loop.time
        self._call_later = call_later or loop.call_later
        self.counters = WriteBehindCounters()

        # A name is in at most one of _pending and _parked, and besides it may be in flight.
        self._pending: OrderedDict[str, _Entry] = OrderedDict()
        self._parked: OrderedDict[str, _Entry] = OrderedDict()  # failed transiently, waiting for the back-off
        self._inflight: dict[str, _Entry] = {}
        self._bytes = 0
        self._queued_bytes = 0  # the part of _bytes that is in _pending
        self._typical_size = 256  # of a text, for snapshots that do not tell
        self._loads: dict[str, _Load] = {}
        self._flights: set[asyncio.Task[None]] = set()

        self._urgent = False  # somebody waits for an entry of _pending, or one is old enough
        self._scheduled = False  # _run is called in this loop turn
        self._flush_timer: Any = None
        self._ack_timer: Any = None
        self._retry_timer: Any = None
        self._retry_due = False
        self._backoff = MIN_BACKOFF
        self._failures = 0  # transient ones since the last success
        self._blocked = False  # the storage is down: only retries are sent
        self._failing_since: float | None = None
        self._last_error_log = -math.inf
        self._failure_logged = False
        self._closing = False
        self._closed = False

    # ---- state for metrics and health

    @property
    def pending(self) -> int:
        """Operations not confirmed yet, those in flight included."""
        return len(self._pending) + len(self._parked) + len(self._inflight)

    @property
    def pending_bytes(self) -> int:
        """Estimated bytes of the operations not confirmed yet."""
        return self._bytes

    @property
    def degraded(self) -> bool:
        """True while writes fail and are being retried."""
        return self._failing_since is not None

    def is_unsaved(self, name: str) -> bool:
        """True if a change of this name is not confirmed yet."""
        return name in self._pending or name in self._inflight or name in self._parked

    # ---- writing

    def put(
        self, name: str, snapshot: Snapshot, *, forced: bool = False, waiter: Waiter | None = None
    ) -> None:
        """Queue the newest state of a record.

        A later operation on the name replaces this one and takes over its waiters. The storage then keeps
        whichever version is higher, unless this one is ``forced``. ``waiter(error)`` is called exactly once:
        with None when this state or a newer one is durable, else with the error. It is never called before
        this method returns.

        Raises :class:`StorageFull` when the bound is reached and :class:`StorageClosed` after :meth:`close`;
        nothing was queued then and the waiter will not be called.
        """
        entry = self._pending.get(name)
        if entry is None and self._parked:
            entry = self._parked.get(name)
        if entry is None:
            entry = self._add(name, snapshot, forced, getattr(snapshot, "size", self._typical_size))
        elif entry.snapshot is snapshot:
            self._check_open()
            entry.text = None  # a parked entry: the state has changed since it was taken
            if forced:
                entry.forced = True
        else:
            self._replace(entry, snapshot, forced)
        if waiter is not None:
            self._add_waiter(entry, waiter)
        elif self._flush_timer is None:
            self._arm_flush_timer(self._flush_interval)

    def delete(self, name: str, waiter: Waiter | None = None) -> None:
        """Queue the deletion of a record. Waiter and errors as with :meth:`put`."""
        entry = self._pending.get(name) or self._parked.get(name)
        if entry is None:
            entry = self._add(name, None, False, 0)
        elif entry.snapshot is not None:
            self._replace(entry, None, False)
        else:
            self._check_open()
        if waiter is not None:
            self._add_waiter(entry, waiter)
        elif self._flush_timer is None:
            self._arm_flush_timer(self._flush_interval)

    def _check_open(self) -> None:
        if self._closing:
            raise StorageClosed("the storage is closed")

    def _add(self, name: str, snapshot: Snapshot | None, forced: bool, size: int) -> _Entry:
        self._check_open()
        unsaved = len(self._pending) + len(self._parked) + len(self._inflight)
        if unsaved >= self._max_pending or self._bytes + size > self._max_bytes:
            self.counters.refused += 1
            raise StorageFull(
                f"too many unsaved changes ({unsaved} records, {self._bytes} bytes); the storage is too slow"
            )
        entry = self._pending[name] = _Entry(name, snapshot, forced, size, self._clock())
        self._bytes += size
        self._queued_bytes += size
        if self._loads:
            load = self._loads.pop(name, None)
            if load is not None:
                load.stale = True
        if len(self._pending) >= self._flush_entries or self._queued_bytes >= self._flush_bytes:
            self._kick()
        return entry

    def _replace(self, entry: _Entry, snapshot: Snapshot | None, forced: bool) -> None:
        """Put a later operation in the place of a queued one; its waiters stay with the entry."""
        self._check_open()
        older = entry.snapshot
        size = 0 if snapshot is None else getattr(snapshot, "size", self._typical_size)
        if size > entry.size and self._bytes + size - entry.size > self._max_bytes:
            self.counters.refused += 1
            raise StorageFull(f"too many unsaved changes ({self._bytes} bytes); the storage is too slow")
        self._bytes += size - entry.size
        if entry.name in self._pending:
            self._queued_bytes += size - entry.size
        # What followed a delete or a forced set must not be stopped by the version that those would have
        # removed.
        entry.forced = snapshot is not None and (forced or entry.forced or older is None)
        entry.snapshot = snapshot
        entry.text = None
        entry.version = -1
        entry.size = size
        self.counters.superseded += 1
        if older is not None:
            older.taken()

    def _add_waiter(self, entry: _Entry, waiter: Waiter) -> None:
        if self._ack_when_queued:
            self._loop.call_soon(self._call, waiter, None)
            if self._flush_timer is None:
                self._arm_flush_timer(self._flush_interval)
            return
        deadline = self._clock() + self._ack_timeout
        if entry.waiters is None:
            entry.waiters = [(deadline, waiter)]
        else:
            entry.waiters.append((deadline, waiter))
        if self._ack_timer is None:
            self._ack_timer = self._call_later(self._ack_timeout, self._expire_waiters)
        self._urgent = True
        self._kick()

    def _expire_waiters(self) -> None:
        """Tell those who have waited too long; the write itself stays queued."""
        self._ack_timer = None
        now = self._clock()
        earliest = NO_DEADLINE
        expired: list[Waiter] = []
        for queue in (self._pending, self._parked, self._inflight):
            for entry in queue.values():
                if not entry.waiters:
                    continue
                # In the order of their deadlines: waiters taken over from older entries come first.
                kept = [item for item in entry.waiters if item[0] > now]
                if len(kept) < len(entry.waiters):
                    expired.extend(waiter for deadline, waiter in entry.waiters if deadline <= now)
                    entry.waiters = kept or None
                if kept:
                    earliest = min(earliest, kept[0][0])
        if earliest != NO_DEADLINE:
            # Not more often than 50 times per timeout, however the deadlines lie: each scan visits every
            # entry.
            delay = max(earliest - now, self._ack_timeout / 50)
            self._ack_timer = self._call_later(delay, self._expire_waiters)
        self.counters.ack_timeouts += len(expired)
        for waiter in expired:
            self._call(waiter, WriteAckTimeout("the storage did not confirm the write in time"))

    def _call(self, waiter: Waiter, error: Exception | None) -> None:
        try:
            waiter(error)
        except Exception as failure:  # a caller's mistake must not stop the queue
            self._logger.error("STORAGE_WRITE_ERROR", f"answering a write failed: {failure!r}")

    # ---- when to flush

    def _kick(self) -> None:
        """Look for work once this loop turn has queued all it has."""
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _arm_flush_timer(self, delay: float) -> None:
        if self._flush_timer is None:
            self._flush_timer = self._call_later(delay, self._flush_timer_fired)

    def _wait_for_oldest(self) -> None:
        if self._pending and self._flush_timer is None and not self._blocked:
            age = self._clock() - next(iter(self._pending.values())).since
            self._arm_flush_timer(max(self._flush_interval - age, 0.0))

    def _flush_timer_fired(self) -> None:
        self._flush_timer = None
        self._urgent = bool(self._pending)
        self._kick()

    def _is_due(self) -> bool:
        if not self._pending or self._blocked:
            return False
        return (
            self._urgent
            or len(self._pending) >= self._flush_entries
            or self._queued_bytes >= self._flush_bytes
            or self._clock() - next(iter(self._pending.values())).since >= self._flush_interval
        )

    def _run(self) -> None:
        """Send what is due, as far as the storage may be given more."""
        self._scheduled = False
        if self._closed:
            return
        if self._batches is None:
            limit = MAX_CONCURRENT - len(self._inflight)
        else:
            limit = 0 if self._inflight else self._batch_entries
        if limit > 0:
            entries = self._take(limit, self._is_due())
            if entries and self._batches is not None:
                self._launch(self._fly(entries))
            elif entries:
                for entry in entries:
                    self._launch(self._fly([entry]))
        if not self._inflight:  # else its landing looks again
            self._wait_for_oldest()

    def _launch(self, flight: Any) -> None:
        task = self._loop.create_task(flight)
        self._flights.add(task)
        task.add_done_callback(self._flights.discard)

    def _take(self, limit: int, due: bool) -> list[_Entry]:
        """Move entries in flight, oldest first, and make their text."""
        batch: list[_Entry] = []
        size = 0
        sources: list[OrderedDict[str, _Entry]] = []
        if self._retry_due and self._parked:
            sources.append(self._parked)
        if due:
            sources.append(self._pending)
        inflight = self._inflight
        for source in sources:
            if source is self._parked:
                self.counters.retries += min(limit, len(source))
            skipped: list[_Entry] = []
            while source and len(batch) < limit and size < self._batch_bytes:
                name, entry = source.popitem(last=False)
                if name in inflight:
                    skipped.append(entry)
                    continue
                if source is self._pending:
                    self._queued_bytes -= entry.size
                if self._make_text(entry):
                    inflight[name] = entry
                    batch.append(entry)
                    size += entry.size
            for entry in reversed(skipped):
                source[entry.name] = entry
                source.move_to_end(entry.name, last=False)
        if not self._parked:
            self._retry_due = False
        if not self._pending:
            self._urgent = False
        return batch

    def _make_text(self, entry: _Entry) -> bool:
        snapshot = entry.snapshot
        if snapshot is None or entry.text is not None:
            return True
        try:
            entry.version = snapshot.version
            text = snapshot.text()
        except Exception as error:
            snapshot.taken()
            self._give_up([(entry, PermanentStorageError(f"cannot be written as JSON: {error}"))])
            return False
        entry.text = text
        size = len(text)
        self._bytes += size - entry.size
        entry.size = size
        self._typical_size = (self._typical_size * 15 + size) // 16
        snapshot.taken()
        return True

    # ---- flights

    async def _fly(self, entries: list[_Entry]) -> None:
        started = self._clock()
        try:
            results = await self._send(entries)
        except asyncio.CancelledError:
            if self._closed:
                raise
            # Something inside the storage was cancelled, not this flight.
            results = [TransientStorageError("the write was cancelled")] * len(entries)
        took = self._clock() - started
        counters = self.counters
        counters.flushes += 1
        counters.flush_seconds += took
        counters.last_flush = took
        counters.max_flush = max(counters.max_flush, took)
        self._land(entries, results)

    async def _send(self, entries: Sequence[_Entry]) -> Sequence[Exception | None]:
        try:
            if self._batches is None:
                await self._send_plain(entries[0])
                return [None]
            results = await self._batches.write_batch(entries)
            if len(results) != len(entries):
                raise PermanentStorageError(
                    f"the storage gave {len(results)} results for {len(entries)} writes"
                )
            return results
        except Exception as error:
            if len(entries) == 1 or self._is_worth_a_retry(error, entries):
                return [error] * len(entries)
        # One bad entry must not take the others with it: find it by halves.
        middle = len(entries) // 2
        return [*await self._send(entries[:middle]), *await self._send(entries[middle:])]

    async def _send_plain(self, entry: _Entry) -> None:
        if entry.text is None:
            await self._storage.delete(entry.name)
            return
        try:
            data = decode_json(entry.text)
        except ValueError as error:
            raise PermanentStorageError(f"not JSON: {error}") from error
        await self._storage.set(entry.name, entry.version, data)

    @staticmethod
    def _is_worth_a_retry(error: Exception, entries: Iterable[_Entry]) -> bool:
        if is_transient(error):
            return True
        return not is_permanent(error) and any(entry.tries < MAX_TRIES - 1 for entry in entries)

    def _land(self, entries: Sequence[_Entry], results: Sequence[Exception | None]) -> None:
        inflight = self._inflight
        answered: list[tuple[Waiter, Exception | None]] = []
        given_up: list[tuple[_Entry, Exception]] = []
        parked: Exception | None = None
        succeeded = 0
        for entry, error in zip(entries, results, strict=True):
            del inflight[entry.name]
            if error is None:
                succeeded += 1
                self._bytes -= entry.size
                if entry.snapshot is not None:
                    try:
                        entry.snapshot.saved(entry.version)
                    except Exception as failure:  # a caller's mistake must not stop the queue
                        self._logger.error(
                            "STORAGE_WRITE_ERROR", f"{entry.name}: saved() failed: {failure!r}"
                        )
                if entry.waiters:
                    answered += [(waiter, None) for _, waiter in entry.waiters]
            elif self._is_worth_a_retry(error, (entry,)):
                entry.tries += 1
                parked = error
                self._park(entry)
            else:
                given_up.append((entry, error))
        self.counters.saved += succeeded
        if parked is not None:
            self._note_failure(parked, succeeded == 0)
        else:
            self._failures = 0
            self._blocked = False
            if self._failing_since is not None and not self._parked:
                self._note_recovery()
        for waiter, result in answered:
            self._call(waiter, result)
        if given_up:
            self._give_up(given_up)
        if (self._parked and self._retry_due) or self._is_due():
            self._kick()
        else:
            self._wait_for_oldest()

    def _park(self, older: _Entry) -> None:
        """Keep a failed operation for a retry, unless a later one of the same name is queued."""
        newer = self._pending.get(older.name)
        if newer is None:
            self._parked[older.name] = older
            return
        self.counters.superseded += 1
        newer.tries = older.tries
        newer.waiters = ((older.waiters or []) + (newer.waiters or [])) or None
        self._urgent = self._urgent or newer.waiters is not None
        if newer.snapshot is not None and (older.snapshot is None or older.forced):
            newer.forced = True
        self._bytes -= older.size

    def _note_failure(self, error: Exception, nothing_succeeded: bool) -> None:
        self._failures += 1
        self._retry_due = False
        if nothing_succeeded and (self._batches is not None or self._failures >= FAILURES_TO_BLOCK):
            self._blocked = True
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._last_error_log >= LOG_INTERVAL:
            self._last_error_log = now
            self._failure_logged = True
            self._logger.error(
                "STORAGE_WRITE_ERROR",
                f"writing fails and is retried, {self.pending} records are unsaved: {error}",
            )
        self._arm_retry_timer()

    def _arm_retry_timer(self) -> None:
        # The entry may have gone back to _pending because a later operation exists; it waits all the same.
        if self._retry_timer is None and (self._parked or self._blocked):
            delay = self._backoff
            self._backoff = min(self._backoff * 2, MAX_BACKOFF)
            self._retry_timer = self._call_later(delay, self._retry_timer_fired)

    def _retry_timer_fired(self) -> None:
        self._retry_timer = None
        self._retry_due = True
        if not self._parked:
            self._blocked = False  # nothing parked to try it with: try what is queued
        self._kick()

    def _note_recovery(self) -> None:
        if self._failing_since is None or any(entry.tries for entry in self._inflight.values()):
            return
        took = self._clock() - self._failing_since
        self._failing_since = None
        self._backoff = MIN_BACKOFF
        if self._failure_logged:
            self._failure_logged = False
            self._logger.info("STORAGE_RECOVERED", f"writing works again after {took:.1f} s")

    def _give_up(self, failed: Sequence[tuple[_Entry, Exception]]) -> None:
        self.counters.failed += len(failed)
        for index, (entry, error) in enumerate(failed):
            self._bytes -= entry.size
            if index < NAMED_ERRORS_PER_FLUSH:
                self._logger.error("STORAGE_WRITE_ERROR", f"{entry.name}: {error}")
        if len(failed) > NAMED_ERRORS_PER_FLUSH:
            more = len(failed) - NAMED_ERRORS_PER_FLUSH
            self._logger.error("STORAGE_WRITE_ERROR", f"{more} more records: {failed[-1][1]}")
        for entry, error in failed:
            for _, waiter in entry.waiters or ():
                self._call(waiter, error)

    # ---- reading

    async def get(self, name: str) -> tuple[int, bytes | None]:
        """Version and JSON text of a record; ``(-1, None)`` if it does not exist.

        Unsaved changes count. Concurrent requests for one name are one request to the storage. Raises what
        the storage raises; the time limit is the caller's.
        """
        while True:
            entry = self._pending.get(name) or self._parked.get(name) or self._inflight.get(name)
            if entry is not None:
                return entry.state()
            load = self._loads.get(name)
            if load is None:
                load = self._start_load(name)
            load.readers += 1
            try:
                result = await asyncio.shield(load.task)
            finally:
                load.readers -= 1
                if not load.readers and not load.task.done():
                    # All have given up. The next reader asks again: this request may never be answered.
                    self._forget_load(name, load)
                    load.task.cancel()
            if not load.stale:
                return result
            # A write came while the storage was asked; what it said may be older.

    def _start_load(self, name: str) -> _Load:
        load = self._loads[name] = _Load(self._loop.create_task(self._load(name)))

        def forget(task: asyncio.Task[tuple[int, bytes | None]]) -> None:
            self._forget_load(name, load)
            if not task.cancelled():
                task.exception()  # seen, also when every reader has gone

        load.task.add_done_callback(forget)
        return load

    def _forget_load(self, name: str, load: _Load) -> None:
        if self._loads.get(name) is load:
            del self._loads[name]

    async def _load(self, name: str) -> tuple[int, bytes | None]:
        if self._batches is not None:
            return await self._batches.get_text(name)
        version, data = await self._storage.get(name)
        return (-1, None) if data is None else (version, encode_json(data))

    # ---- ending

    async def flush(self) -> None:
        """Return when everything queued before this call is saved or has failed for good."""
        entries = [*self._pending.values(), *self._parked.values(), *self._inflight.values()]
        if not entries:
            return
        left = len(entries)
        done: asyncio.Future[None] = self._loop.create_future()

        def count(_error: Exception | None) -> None:
            nonlocal left
            left -= 1
            if left == 0 and not done.done():
                done.set_result(None)

        for entry in entries:
            if entry.waiters is None:
                entry.waiters = [(NO_DEADLINE, count)]
            else:
                entry.waiters.append((NO_DEADLINE, count))
        self._urgent = True
        self._kick()
        await done

    async def close(self) -> list[str]:
        """Save what is queued, for at most ``shutdown_timeout``, and stop. Returns the names not saved.

        New operations raise :class:`StorageClosed` from the first moment. The storage itself stays open; it
        belongs to whoever made it. What could not be saved is logged and its waiters get an error.
        """
        if self._closing:
            return []
        self._closing = True
        self._backoff = MIN_BACKOFF
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer_fired()
        saving = self._loop.create_task(self.flush())

        def end() -> None:
            saving.cancel()

        timer = self._call_later(self._shutdown_timeout, end)
        try:
            await asyncio.wait([saving])
        finally:
            timer.cancel()
            saving.cancel()
            lost = self._stop()
        return lost

    def _stop(self) -> list[str]:
        self._closed = True
        for timer in (self._flush_timer, self._ack_timer, self._retry_timer):
            if timer is not None:
                timer.cancel()
        for task in list(self._flights):
            task.cancel()
        for load in self._loads.values():
            load.task.cancel()
        unsaved = [*self._inflight.values(), *self._parked.values(), *self._pending.values()]
        names = list(dict.fromkeys(entry.name for entry in unsaved))
        if names:
            self.counters.lost += len(names)
            shown = ", ".join(names[:NAMED_ERRORS_PER_FLUSH])
            more = ", ..." if len(names) > NAMED_ERRORS_PER_FLUSH else ""
            self._logger.error(
                "STORAGE_WRITE_ERROR", f"{len(names)} records were not saved before the end: {shown}{more}"
            )
        self._pending.clear()
        self._parked.clear()
        self._inflight.clear()
        self._bytes = self._queued_bytes = 0
        for entry in unsaved:
            for _, waiter in entry.waiters or ():
                self._call(waiter, StorageClosed("the server stopped before the write was saved"))
        return names
