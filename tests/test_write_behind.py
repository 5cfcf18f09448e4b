"""The write-behind layer against storages that are slow, fail for a while, refuse values or stop for good."""

import asyncio
import json
import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from storage_fakes import (
    Answer,
    FakeClock,
    LiveRecord,
    MemoryBatches,
    MemoryLogger,
    MemoryPlain,
    turns,
)

from dsfast.plugin import LogLevel
from dsfast.services.storage import (
    PermanentStorageError,
    StorageClosed,
    StorageFull,
    TextSnapshot,
    TransientStorageError,
    WriteAckTimeout,
    WriteBehind,
)
from dsfast.services.storage.batch import encode_json
from dsfast.services.storage.none import NoStorage

EXAMPLES = int(os.environ.get("DSFAST_STORAGE_EXAMPLES", "60"))


class Setup:
    """A layer over a fake storage with a fake clock."""

    def __init__(self, storage=None, **options):
        self.storage = storage or MemoryBatches()
        self.clock = FakeClock()
        self.logger = MemoryLogger()
        self.layer = WriteBehind(
            self.storage,
            logger=self.logger,
            clock=self.clock.time,
            call_later=self.clock.call_later,
            **options,
        )

    def put(self, name, version=1, data=None, **options):
        answer = Answer()
        text = encode_json({"v": version} if data is None else data)
        self.layer.put(name, TextSnapshot(version, text), waiter=answer, **options)
        return answer

    def put_unwatched(self, name, version=1):
        self.layer.put(name, TextSnapshot(version, b'{"v":%d}' % version))


# ---- when it flushes


async def test_write_without_waiter_is_sent_when_the_interval_is_over():
    setup = Setup()
    setup.put_unwatched("a")
    await setup.clock.advance(0.0099)
    assert setup.storage.batches == []
    await setup.clock.advance(0.0001)
    assert setup.storage.rows == {"a": (1, b'{"v":1}')}


async def test_interval_counts_from_the_oldest_entry_even_if_that_is_replaced():
    setup = Setup()
    setup.put_unwatched("a", 1)
    await setup.clock.advance(0.006)
    setup.put_unwatched("a", 2)
    setup.put_unwatched("b", 1)
    await setup.clock.advance(0.004)
    assert setup.storage.rows == {"a": (2, b'{"v":2}'), "b": (1, b'{"v":1}')}
    assert len(setup.storage.batches) == 1


async def test_thousand_entries_or_enough_bytes_are_sent_at_once():
    setup = Setup()
    for number in range(1000):
        setup.put_unwatched(f"r{number}")
    await turns()
    assert [len(batch) for batch in setup.storage.batches] == [1000]

    setup = Setup(flush_bytes=5000)
    setup.layer.put("big", TextSnapshot(1, b'"' + b"x" * 6000 + b'"'))
    await turns()
    assert len(setup.storage.batches) == 1


async def test_waiter_is_served_at_once_with_everything_of_the_same_loop_turn():
    setup = Setup()
    answers = [setup.put(f"r{number}") for number in range(50)]
    setup.put_unwatched("unwatched")
    assert not any(answer.done for answer in answers)
    await turns()
    assert all(answer.error is None for answer in answers)
    assert [len(batch) for batch in setup.storage.batches] == [51]


async def test_writes_gather_while_a_flush_is_in_flight():
    setup = Setup()
    setup.storage.gate.open = False
    first = setup.put("a", 1)
    await turns()
    later = [setup.put(f"r{number}") for number in range(100)]
    await turns()
    assert len(setup.storage.batches) == 1
    setup.storage.gate.open = True
    setup.storage.gate.release()
    await turns()
    assert first.error is None
    assert all(answer.error is None for answer in later)
    assert [len(batch) for batch in setup.storage.batches] == [1, 100]


async def test_batch_is_bounded_in_entries_and_bytes():
    setup = Setup(batch_entries=10, batch_bytes=100)
    for number in range(25):
        setup.put(f"r{number:02}")
    await turns()
    assert [len(batch) for batch in setup.storage.batches] == [10, 10, 5]
    for number in range(4):
        setup.put(f"big{number}", data="x" * 80)
    await turns()
    assert [len(batch) for batch in setup.storage.batches[3:]] == [2, 2]


# ---- what is written


async def test_live_record_that_changes_a_hundred_times_is_written_once():
    setup = Setup()
    record = LiveRecord(0, {"n": 0})
    answers = []
    for number in range(100):
        record.version, record.data = number, {"n": number}
        answers.append(Answer())
        setup.layer.put("a", record, waiter=answers[-1])
    await turns()
    assert setup.storage.rows == {"a": (99, b'{"n":99}')}
    assert all(answer.error is None for answer in answers)
    assert (record.texts, record.taken_count, record.saved_versions) == (1, 1, [99])


async def test_change_after_the_text_was_taken_is_written_by_a_second_flush():
    setup = Setup()
    setup.storage.gate.open = False
    record = LiveRecord(1, {"n": 1})
    first, second = Answer(), Answer()
    setup.layer.put("a", record, waiter=first)
    await turns()
    assert record.taken_count == 1
    record.version, record.data = 2, {"n": 2}
    setup.layer.put("a", record, waiter=second)
    await turns()
    assert len(setup.storage.batches) == 1, "a name in flight is not sent again"
    setup.storage.gate.open = True
    setup.storage.gate.release()
    await turns()
    assert (first.error, second.error) == (None, None)
    assert setup.storage.rows["a"] == (2, b'{"n":2}')
    assert record.saved_versions == [1, 2]


async def test_fifty_versions_without_waiting_end_with_the_last():
    setup = Setup()
    answers = [setup.put("a", version) for version in range(1, 51)]
    await turns()
    assert setup.storage.rows == {"a": (50, b'{"v":50}')}
    assert all(answer.error is None for answer in answers)
    assert setup.layer.counters.superseded == 49


async def test_delete_after_set_and_set_after_delete():
    setup = Setup()
    setup.put("a", 9)
    await turns()
    setup.put("a", 10)
    setup.layer.delete("a")
    await turns()
    assert setup.storage.rows == {}
    setup.put("a", 9)
    await turns()
    setup.layer.delete("a")
    created = setup.put("a", 0)
    await turns()
    assert created.error is None
    assert setup.storage.rows == {"a": (0, b'{"v":0}')}, "the delete went first, whatever version was stored"


async def test_set_after_forced_set_in_one_batch_is_not_stopped_by_the_version_before():
    setup = Setup()
    setup.put("hot", 9)
    await turns()
    setup.put("hot", 0, forced=True)
    setup.put("hot", 1)
    await turns()
    assert setup.storage.rows["hot"] == (1, b'{"v":1}')


async def test_later_write_replaces_an_earlier_one_and_the_storage_decides_by_version():
    setup = Setup()
    setup.storage.rows["a"] = (4, b"{}")
    high, low = setup.put("a", 5), setup.put("a", 3)
    await turns()
    assert setup.storage.rows["a"] == (4, b"{}")
    assert (high.error, low.error) == (None, None), "a refused write is a success: someone newer won"


async def test_snapshot_that_raises_stops_nobody():
    setup = Setup()
    record = LiveRecord(1, {})
    record.saved = lambda version: 1 / 0
    setup.layer.put("a", record)
    other = setup.put("b")
    await setup.layer.flush()
    assert other.error is None
    assert "ZeroDivisionError" in setup.logger.texts(LogLevel.ERROR)[0]


async def test_record_that_cannot_be_written_as_json_fails_alone():
    setup = Setup()
    bad = LiveRecord(1, {"x": object()})
    answer = Answer()
    setup.layer.put("bad", bad, waiter=answer)
    good = setup.put("good")
    await turns()
    assert isinstance(answer.error, PermanentStorageError)
    assert good.error is None
    assert bad.taken_count == 1
    assert setup.layer.pending == 0
    assert setup.layer.pending_bytes == 0


# ---- reading


async def test_reads_see_queued_and_flying_changes_first():
    setup = Setup()
    setup.storage.rows["a"] = (1, b'{"v":1}')
    setup.storage.gate.open = False
    setup.put("a", 2)
    assert await setup.layer.get("a") == (2, b'{"v":2}')
    await turns()
    assert await setup.layer.get("a") == (2, b'{"v":2}')
    setup.layer.delete("a")
    assert await setup.layer.get("a") == (-1, None)
    assert setup.layer.is_unsaved("a")
    setup.storage.gate.open = True
    setup.storage.gate.release()
    await setup.layer.flush()
    assert await setup.layer.get("a") == (-1, None)
    assert not setup.layer.is_unsaved("a")


async def test_concurrent_reads_of_one_name_are_one_request():
    setup = Setup()
    setup.storage.rows["a"] = (7, b"{}")
    setup.storage.read_gate.open = False
    reads = [asyncio.create_task(setup.layer.get("a")) for _ in range(20)]
    await turns()
    assert setup.storage.reads == 1
    reads[0].cancel()
    await turns()
    setup.storage.read_gate.release()
    assert await asyncio.gather(*reads[1:]) == [(7, b"{}")] * 19


async def test_read_that_overlaps_a_write_does_not_answer_the_state_before_it():
    setup = Setup()
    setup.storage.read_gate.open = False
    early = asyncio.create_task(setup.layer.get("a"))
    await turns()
    assert setup.put("a", 1).results == []
    await turns()
    assert not setup.layer.is_unsaved("a")
    late = asyncio.create_task(setup.layer.get("a"))
    await turns()
    assert setup.storage.reads == 2, "a read after the write must not share the request from before it"
    setup.storage.read_gate.open = True
    setup.storage.read_gate.release()
    assert await early == (1, b'{"v":1}')
    assert await late == (1, b'{"v":1}')


async def test_failed_read_is_the_error_of_all_its_readers_and_not_kept():
    setup = Setup()
    setup.storage.read_gate.open = False
    reads = [asyncio.create_task(setup.layer.get("a")) for _ in range(2)]
    await turns()
    setup.storage.read_gate.release(TransientStorageError("away"))
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert [str(result) for result in results] == ["away", "away"]
    setup.storage.read_gate.open = True
    assert await setup.layer.get("a") == (-1, None)


# ---- failures


async def test_transient_errors_are_retried_with_back_off_and_order_is_kept():
    setup = Setup()
    setup.storage.errors = [TransientStorageError("disk full") for _ in range(9)]
    first = setup.put("a", 1)
    await turns()
    assert setup.layer.degraded
    second, other = setup.put("a", 2), setup.put("b", 1)
    await turns()
    assert len(setup.storage.batches) == 1, "nothing is sent before the back-off is over"
    for delay in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0):
        sent = len(setup.storage.batches)
        await setup.clock.advance(delay * 0.98)
        assert len(setup.storage.batches) == sent
        await setup.clock.advance(delay * 0.02)
        assert len(setup.storage.batches) == sent + 1
        assert not first.done
    await setup.clock.advance(5)
    assert (first.error, second.error, other.error) == (None, None, None)
    assert setup.storage.rows == {"a": (2, b'{"v":2}'), "b": (1, b'{"v":1}')}
    assert not setup.layer.degraded
    assert len(setup.logger.texts(LogLevel.ERROR)) == 1, "one line, not one per attempt"
    assert len(setup.logger.texts(LogLevel.INFO)) == 1


async def test_lasting_failure_is_logged_once_a_minute():
    setup = Setup()
    setup.storage.errors = [ConnectionResetError("gone")] * 1000
    setup.put_unwatched("a")
    await setup.clock.advance(200)
    assert len(setup.logger.texts(LogLevel.ERROR)) == 4


async def test_change_during_the_back_off_is_what_the_retry_writes():
    setup = Setup()
    setup.storage.errors = [TransientStorageError("x")]
    record = LiveRecord(1, {"n": 1})
    setup.layer.put("a", record)
    await setup.clock.advance(0.01)
    record.version, record.data = 2, {"n": 2}
    setup.layer.put("a", record)
    await setup.clock.advance(0.05)
    assert setup.storage.rows == {"a": (2, b'{"n":2}')}
    assert setup.storage.batches == [["<set v1 'a'>"], ["<set v2 'a'>"]]


async def test_failed_delete_followed_by_a_set_must_not_be_stopped_by_the_old_version():
    setup = Setup()
    setup.storage.rows["a"] = (9, b"{}")
    setup.storage.gate.open = False
    setup.layer.delete("a", Answer())
    await turns()
    created = setup.put("a", 0)
    setup.storage.gate.open = True
    setup.storage.gate.release(TransientStorageError("x"))
    await setup.clock.advance(0.05)
    assert created.error is None
    assert setup.storage.rows["a"] == (0, b'{"v":0}')


async def test_one_refused_value_does_not_take_the_batch_with_it():
    setup = Setup()
    setup.storage.refuse = lambda op: PermanentStorageError("bad value") if op.name == "r37" else None
    answers = {f"r{number}": setup.put(f"r{number}") for number in range(100)}
    await turns(40)
    assert isinstance(answers["r37"].error, PermanentStorageError)
    assert all(answer.error is None for name, answer in answers.items() if name != "r37")
    assert len(setup.storage.rows) == 99
    assert setup.logger.texts(LogLevel.ERROR) == ["r37: bad value"]
    assert setup.layer.counters.failed == 1
    assert setup.layer.pending == 0
    assert setup.layer.pending_bytes == 0


async def test_many_refused_values_do_not_flood_the_log():
    setup = Setup()
    setup.storage.refuse = lambda op: PermanentStorageError("no")
    for number in range(100):
        setup.put(f"r{number}")
    await turns(300)
    assert len(setup.logger.texts(LogLevel.ERROR)) == 11
    assert setup.layer.counters.failed == 100


async def test_unknown_error_is_tried_three_times_then_it_is_permanent():
    setup = Setup()
    setup.storage.refuse = lambda op: RuntimeError("what?") if op.name == "bad" else None
    bad, good = setup.put("bad"), setup.put("good")
    await turns()
    await setup.clock.advance(0.05)
    assert not bad.done
    await setup.clock.advance(0.1)
    assert isinstance(bad.error, RuntimeError)
    assert good.error is None


async def test_permanent_error_of_an_old_state_leaves_a_newer_one_alone():
    setup = Setup()
    setup.storage.gate.open = False
    old = setup.put("a", 1)
    await turns()
    new = setup.put("a", 2)
    setup.storage.gate.open = True
    setup.storage.gate.release(PermanentStorageError("no"))
    await turns()
    assert isinstance(old.error, PermanentStorageError)
    assert new.error is None
    assert setup.storage.rows["a"][0] == 2


async def test_waiters_get_an_error_in_time_while_the_write_stays_queued():
    setup = Setup(write_ack_timeout=30_000)
    setup.storage.gate.open = False
    early = setup.put("a")
    await setup.clock.advance(20)
    late = setup.put("b")
    await setup.clock.advance(9.9)
    assert not early.done
    await setup.clock.advance(0.1)
    assert isinstance(early.error, WriteAckTimeout)
    assert not late.done
    await setup.clock.advance(20)
    assert isinstance(late.error, WriteAckTimeout)
    assert setup.layer.counters.ack_timeouts == 2
    assert setup.layer.pending == 2
    setup.storage.gate.open = True
    setup.storage.gate.release()
    await setup.layer.flush()
    assert set(setup.storage.rows) == {"a", "b"}


async def test_no_timer_is_left_when_all_is_saved():
    setup = Setup()
    setup.put("a")
    await turns()
    await setup.clock.advance(31)
    assert setup.clock.armed == 0


async def test_full_queue_refuses_new_names_but_not_news_of_queued_ones():
    setup = Setup(max_pending=3)
    setup.storage.gate.open = False
    for name in "abc":
        setup.put_unwatched(name)
    with pytest.raises(StorageFull):
        setup.put("d")
    with pytest.raises(StorageFull):
        setup.layer.delete("d")
    accepted = setup.put("a", 2)
    assert setup.layer.counters.refused == 2
    setup.storage.gate.open = True
    await setup.layer.flush()
    assert accepted.error is None
    assert setup.put("d").results == []
    await setup.layer.flush()
    assert set(setup.storage.rows) == set("abcd")


async def test_full_queue_counts_bytes():
    setup = Setup(max_pending_bytes=1000)
    setup.storage.gate.open = False
    setup.put("a", data="x" * 600)
    with pytest.raises(StorageFull):
        setup.put("b", data="x" * 600)
    with pytest.raises(StorageFull):
        setup.put("a", 2, data="x" * 1200)
    setup.put("a", 2, data="x" * 700)
    await turns()
    setup.storage.gate.open = True
    setup.storage.gate.release()
    await setup.layer.flush()
    assert setup.layer.pending_bytes == 0


async def test_waiter_that_raises_stops_nobody():
    setup = Setup()

    def broken(error):
        raise RuntimeError("oops")

    setup.layer.put("a", TextSnapshot(1, b"{}"), waiter=broken)
    after = setup.put("b")
    await turns()
    assert after.error is None
    assert "oops" in setup.logger.texts(LogLevel.ERROR)[0]


async def test_cancellation_inside_the_storage_is_a_transient_error():
    setup = Setup()
    setup.storage.errors = [asyncio.CancelledError()]
    answer = setup.put("a")
    await turns()
    assert not answer.done
    await setup.clock.advance(0.05)
    assert answer.error is None


# ---- the end


async def test_close_saves_what_is_queued_and_refuses_the_rest():
    setup = Setup()
    for number in range(5000):
        setup.put_unwatched(f"r{number}")
    assert await setup.layer.close() == []
    assert len(setup.storage.rows) == 5000
    with pytest.raises(StorageClosed):
        setup.put("late")
    with pytest.raises(StorageClosed):
        setup.layer.delete("late")


async def test_close_gives_up_after_its_time_and_names_what_is_lost():
    setup = Setup(shutdown_timeout=10_000)
    setup.storage.errors = [TransientStorageError("away")] * 1000
    answer = setup.put("a")
    setup.put_unwatched("b")
    await turns()
    closing = asyncio.create_task(setup.layer.close())
    await turns()
    await setup.clock.advance(9.9)
    assert not closing.done()
    await setup.clock.advance(0.2)
    assert sorted(await closing) == ["a", "b"]
    assert isinstance(answer.error, StorageClosed)
    assert setup.layer.counters.lost == 2
    assert "2 records were not saved before the end: " in setup.logger.texts(LogLevel.ERROR)[-1]
    assert setup.clock.armed == 0


async def test_close_waits_for_a_write_that_hangs_no_longer_than_its_time():
    setup = Setup(shutdown_timeout=10_000)
    setup.storage.gate.open = False
    setup.put_unwatched("a")
    closing = asyncio.create_task(setup.layer.close())
    await turns()
    await setup.clock.advance(10)
    assert await closing == ["a"]


# ---- plain storages


async def test_plain_storage_gets_one_operation_per_name_and_64_in_all():
    storage = MemoryPlain()
    setup = Setup(storage)
    storage.gate.open = False
    answers = [setup.put(f"r{number}", 1) for number in range(200)]
    await turns()
    assert len(storage.busy) == 64
    answers += [setup.put(f"r{number}", 2) for number in range(200)]
    await turns()
    storage.gate.open = True
    storage.gate.release()
    await setup.layer.flush()
    assert all(answer.error is None for answer in answers)
    assert storage.rows == {f"r{number}": (2, {"v": 2}) for number in range(200)}
    assert storage.most_busy == 64


async def test_plain_storage_gets_data_of_its_own():
    storage = MemoryPlain()
    setup = Setup(storage)
    record = LiveRecord(1, {"list": [1, 2]})
    setup.layer.put("a", record)
    await setup.layer.flush()
    storage.handed[0]["list"].append(3)
    assert record.data == {"list": [1, 2]}
    assert await setup.layer.get("a") == (1, b'{"list":[1,2,3]}')
    assert await setup.layer.get("missing") == (-1, None)


async def test_plain_storage_one_failing_name_does_not_stop_the_others():
    storage = MemoryPlain()
    setup = Setup(storage)
    storage.errors["bad"] = [TransientStorageError("x")] * 4
    bad = setup.put("bad")
    await turns()
    for number in range(100):
        answer = setup.put(f"r{number}")
        await turns()
        assert answer.error is None
    assert not bad.done
    await setup.clock.advance(5)
    assert bad.error is None
    assert len(setup.logger.texts(LogLevel.ERROR)) == 1


async def test_plain_storage_that_is_down_is_not_stormed():
    storage = MemoryPlain()
    setup = Setup(storage)
    names = [f"r{number}" for number in range(500)]
    for name in names:
        storage.errors[name] = [ConnectionRefusedError("down")] * 3
    answers = [setup.put(name) for name in names]
    await turns()
    assert len(storage.handed) <= 64
    await setup.clock.advance(60)
    assert all(answer.error is None for answer in answers)


async def test_lone_surrogates_survive_a_plain_storage():
    storage = MemoryPlain()
    setup = Setup(storage)
    setup.layer.put("a", TextSnapshot(1, b'{"s":"\\ud800"}'))
    await setup.layer.flush()
    assert storage.rows["a"] == (1, {"s": "\ud800"})
    assert await setup.layer.get("a") == (1, b'{"s":"\\ud800"}')


async def test_no_storage_confirms_at_once_and_finds_nothing():
    setup = Setup(NoStorage({}, None, None))
    answer = setup.put("a")
    assert not answer.done
    await setup.layer.flush()
    assert answer.error is None
    assert await setup.layer.get("a") == (-1, None)


# ---- storms against a model


class Storm(RuleBasedStateMachine):
    """Any order of changes, failures and time, against the plain rule: a name's last operation counts."""

    names = st.sampled_from(["a", "b", "c"])

    @initialize(plain=st.booleans(), batch=st.sampled_from([1, 2, 2000]))
    def start(self, plain, batch):
        self.loop = asyncio.new_event_loop()
        self.plain = plain
        self.sequence = 0
        self.version = dict.fromkeys("abc", -1)
        self.last = dict.fromkeys("abc", None)  # sequence of the last set; None: deleted
        self.deleted_at = dict.fromkeys("abc", 0)
        self.waiting = []
        self.live = {}

        async def setup():
            return Setup(MemoryPlain() if plain else MemoryBatches(), batch_entries=batch)

        self.setup = self.run(setup())
        self.setup.storage.gate.open = False

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def stored(self, name):
        row = self.setup.storage.rows.get(name)
        if row is None:
            return None
        return row[1] if self.plain else json.loads(row[1])

    def waiter(self, name, sequence):
        answer = Answer()
        self.waiting.append(answer)

        def called(error):
            answer(error)
            assert error is None
            stored = self.stored(name)
            if sequence is None:
                assert stored is None or stored["seq"] > deleted
            elif stored is None:
                assert self.deleted_at[name] > sequence
            else:
                assert stored["seq"] >= sequence

        deleted = self.sequence
        return called

    @rule(name=names, live=st.booleans(), watched=st.booleans(), forced=st.booleans())
    def put(self, name, live, watched, forced):
        self.sequence += 1
        self.version[name] = 0 if forced and not live else self.version[name] + 1
        self.last[name] = self.sequence
        data = {"seq": self.sequence}
        if live and name in self.live:
            record = self.live[name]
            record.version, record.data = self.version[name], data
        else:
            record = LiveRecord(self.version[name], data)
            self.live[name] = record
        waiter = self.waiter(name, self.sequence) if watched else None
        self.setup.layer.put(name, record, forced=forced, waiter=waiter)

    @rule(name=names, watched=st.booleans())
    def delete(self, name, watched):
        self.sequence += 1
        self.version[name] = -1
        self.last[name] = None
        self.deleted_at[name] = self.sequence
        self.live.pop(name, None)
        self.setup.layer.delete(name, self.waiter(name, None) if watched else None)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.05, 1.0]))
    def pass_time(self, seconds):
        self.run(self.setup.clock.advance(seconds))

    @rule(failure=st.booleans(), count=st.sampled_from([1, None]))
    def land(self, failure, count):
        error = TransientStorageError("storm") if failure else None
        self.setup.storage.gate.release(error, count)
        self.run(turns())

    @invariant()
    def reads_are_current(self):
        for name, last in self.last.items():
            _version, text = self.run(self.setup.layer.get(name))
            assert (None if text is None else json.loads(text)["seq"]) == last

    def teardown(self):
        storage = self.setup.storage
        storage.gate.open = True
        storage.gate.release()
        self.run(turns())
        self.run(self.setup.clock.advance(20))
        assert self.setup.layer.pending == 0
        assert self.setup.layer.pending_bytes == 0
        for name, last in self.last.items():
            stored = self.stored(name)
            assert (None if stored is None else stored["seq"]) == last
        assert all(answer.done for answer in self.waiting)
        self.loop.close()


Storm.TestCase.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
TestStorm = Storm.TestCase
