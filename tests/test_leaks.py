"""Clients come, use everything and go, in every manner; afterwards the server holds what it held before.

``DSFAST_CYCLES`` is the number of such cycles (default 200). With 2 000 or more the memory of the process is
looked at, too.
"""

import asyncio
import contextlib
import gc
import os
from collections import Counter

import psutil
from wire import CHALLENGE, TIMEOUT, Client, Running, frame, serve

from dsfast._core.protocol import EventAction, Message, PresenceAction, RecordAction, RpcAction, Topic, encode

loops = ["uvloop"]

CYCLES = int(os.environ.get("DSFAST_CYCLES", "200"))
WARM_UP = CYCLES // 4
MIB = 1 << 20
CORE = ("Connection", "ConnectionTimer", "Subject", "Record", "Call", "Timer", "Step", "Message", "Task")


def core_objects() -> Counter[str]:
    """How many objects of each of the core's kinds there are."""
    gc.collect()
    names = Counter(type(item).__name__ for item in gc.get_objects())
    return Counter({name: names[name] for name in CORE})


async def talk(turn: int, one: Client, two: Client) -> None:
    """Two clients use every feature, and leave some of it unfinished."""
    user, record, event, method = (f"{kind}{turn % 50}" for kind in ("user", "record", "event", "method"))
    for client in (one, two):
        client.send(
            encode(Message(Topic.EVENT, EventAction.SUBSCRIBE, names=[event, "all"], correlation_id="1")),
            encode(Message(Topic.PRESENCE, PresenceAction.SUBSCRIBE, names=[user], correlation_id="2")),
            encode(Message(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL)),
            encode(Message(Topic.EVENT, EventAction.LISTEN, name=f"^{event}.*", correlation_id="3")),
            encode(Message(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, names=[record, f"{record}x"])),
            encode(Message(Topic.RECORD, RecordAction.LISTEN, name=f"^{record}.*", correlation_id="4")),
        )
    two.send(encode(Message(Topic.RPC, RpcAction.PROVIDE, names=[method], correlation_id="5")))
    await settle(two)
    one.send(
        *(
            encode(
                Message(
                    Topic.RECORD,
                    RecordAction.CREATEANDPATCH,
                    name=record,
                    path=f"a[{i}].b",
                    data=b'{"c":1.0}',
                    version=-1,
                    is_write_ack=True,
                    correlation_id=f"w{i}",
                )
            )
            for i in range(3)
        ),
        encode(Message(Topic.RECORD, RecordAction.HEAD_BULK, names=[record, "none"], correlation_id="6")),
        encode(Message(Topic.EVENT, EventAction.EMIT, name=event, data=b'{"a":[1,2,3]}')),
        encode(Message(Topic.RPC, RpcAction.REQUEST, name=method, correlation_id="done", data=b"1")),
        encode(Message(Topic.RPC, RpcAction.REQUEST, name=method, correlation_id="open", data=b"2")),
        encode(Message(Topic.RPC, RpcAction.REQUEST, name="nobody", correlation_id="none")),
    )
    await settle(one)
    two.send(
        encode(Message(Topic.RPC, RpcAction.ACCEPT, name=method, correlation_id="done")),
        encode(Message(Topic.RPC, RpcAction.RESPONSE, name=method, correlation_id="done", data=b"3")),
        encode(Message(Topic.RECORD, RecordAction.UNSUBSCRIBE, names=[f"{record}x"], correlation_id="7")),
        encode(Message(Topic.RECORD, RecordAction.DELETE, name=f"{record}x")),
        encode(Message(Topic.RECORD, RecordAction.READ, name=record)),
        b"\x03no message",
    )
    await settle(two)
    if turn % 2:
        one.send(encode(Message(Topic.RECORD, RecordAction.DELETE, name=record)))
        await settle(one)


async def settle(client: Client) -> None:
    """Everything sent before was handled; what came back does not matter here."""
    client.send(encode(Message(Topic.CONNECTION, 2)))
    while True:
        message = await client.receive()
        if (message.topic, message.action) == (Topic.CONNECTION, 3):
            return


async def cycle(running: Running, turn: int) -> None:
    """One round of clients."""
    half = await Client.connect(running.port)
    half.write(b"GET /deepstream HTTP/1.1\r\nUpgr")
    waiting = await Client.websocket(running.port)
    waiting.write(frame(CHALLENGE) + frame(b"x" * 1000)[:-10])
    one = await Client.login(running.port, f"user{turn % 50}")
    two = await Client.login(running.port, f"user{(turn + 1) % 50}")
    await talk(turn, one, two)
    if turn % 3 == 0:
        await asyncio.gather(one.close(), two.close())
    elif turn % 3 == 1:
        one.reset()
        two.reset()
    else:
        one.write(frame(b"", 1))  # a text frame ends the connection
        two.write(b"\xff\x00")  # no frame at all
        for client in (one, two):
            async with asyncio.timeout(TIMEOUT):
                with contextlib.suppress(ConnectionError):
                    while await client.reader.read(65536):
                        pass
            client.writer.close()
    half.reset()
    waiting.reset()
    await running.gone()


async def test_nothing_is_left_of_clients_that_have_gone() -> None:
    config = {"rpc": {"ackTimeout": 50, "responseTimeout": 100}, "listen": {"responseTimeout": 20}}
    async with serve(config) as running:
        memory, before = 0, Counter[str]()
        for turn in range(CYCLES):
            if turn == WARM_UP:
                await running.until(lambda: running.router.handlers[Topic.RPC].open_calls == 0)
                before = core_objects()
                memory = psutil.Process().memory_info().rss
            await cycle(running, turn)
            running.log.lines.clear()
        await running.until(lambda: running.router.handlers[Topic.RPC].open_calls == 0)
        running.assert_empty()
        # The last one may still be in the hands of its transport.
        await running.until(lambda: core_objects()["Connection"] <= before["Connection"])
        after = core_objects()
        grown = psutil.Process().memory_info().rss - memory
        print(f"{CYCLES} cycles, {memory / MIB:.1f} MiB, then {grown / MIB:+.1f} MiB, {dict(after)}")
        # Records come and go with the turn; of all else there is as much as before.
        assert after["Record"] <= 2 * 50 + 2
        del after["Record"], before["Record"]
        # Not more, at least: what other tests have left may have been freed meanwhile.
        assert after <= before
        assert CYCLES < 2000 or grown < 8 * MIB
