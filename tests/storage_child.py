"""A process that stores records and says which are acknowledged, for tests that kill it or cut its power.

Arguments: path of the database, durability, and settings as JSON. Each acknowledged record is one line
"name version", written with one system call after the acknowledgement: to standard output, or to the file
``acks`` of the settings. Errors in the log go to standard error. With ``stop_after`` the process ends by
itself after so many acknowledgements; ``checkpoint_bytes``, ``truncate_bytes`` and ``sync_interval`` (ms)
make checkpoints and syncs frequent.
"""

import asyncio
import itertools
import json
import os
import sys
from typing import Any

import uvloop
from storage_fakes import MemoryLogger, services

from dsfast.plugin import LogLevel
from dsfast.services.storage import TextSnapshot, WriteBehind
from dsfast.services.storage import sqlite as sqlite_module
from dsfast.services.storage.sqlite import SqliteStorage

WRITERS = 20
NAMES = 200


class SpeakingLogger(MemoryLogger):
    """Says what goes wrong."""

    def log(self, level: int, event: str, message: str, meta: Any = None) -> None:
        if level >= LogLevel.ERROR:
            os.write(2, f"{event} {message}\n".encode())


async def write_for_ever(path: str, durability: str, settings: dict[str, Any]) -> None:
    sqlite_module.CHECKPOINT_BYTES = settings.get("checkpoint_bytes", sqlite_module.CHECKPOINT_BYTES)
    sqlite_module.TRUNCATE_BYTES = settings.get("truncate_bytes", sqlite_module.TRUNCATE_BYTES)
    options = {"path": path, "durability": durability, "syncInterval": settings.get("sync_interval", 1000)}
    storage = SqliteStorage(options, services(SpeakingLogger()), None)
    await storage.when_ready()
    layer = WriteBehind(storage, logger=storage.logger)
    start = max([(await layer.get(f"r{number}"))[0] for number in range(NAMES)]) + 1
    names = itertools.cycle(range(NAMES))
    acks = os.open(settings["acks"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if "acks" in settings else 1
    left = settings.get("stop_after", sys.maxsize)

    async def writer() -> None:
        nonlocal left
        versions = itertools.count(start)
        for version in versions:
            name = f"r{next(names)}"
            done = asyncio.get_running_loop().create_future()
            layer.put(name, TextSnapshot(version, b'{"v":%d,"pad":"%b"}' % (version, b"x" * 150)),
                      waiter=done.set_result)  # fmt: skip
            if await done is None:
                os.write(acks, f"{name} {version}\n".encode())
                left -= 1
                if left <= 0:
                    os._exit(0)

    if acks == 1:
        os.write(1, b"ready\n")
    await asyncio.gather(*(writer() for _ in range(WRITERS)))


if __name__ == "__main__":
    given_path, given_durability, *more = sys.argv[1:]
    uvloop.run(write_for_ever(given_path, given_durability, json.loads(more[0]) if more else {}))
