"""A process that stores records and says which are acknowledged, for tests that kill it.

Arguments: path of the database, durability. Each acknowledged record is one line "name version" on standard
output, written with one system call after the acknowledgement.
"""

import asyncio
import itertools
import os
import sys

import uvloop
from storage_fakes import services

from dsfast.services.storage import TextSnapshot, WriteBehind
from dsfast.services.storage.sqlite import SqliteStorage

WRITERS = 20
NAMES = 200


async def write_for_ever(path: str, durability: str) -> None:
    storage = SqliteStorage({"path": path, "durability": durability}, services(), None)
    await storage.when_ready()
    layer = WriteBehind(storage, logger=storage.logger)
    start = max([(await layer.get(f"r{number}"))[0] for number in range(NAMES)]) + 1
    names = itertools.cycle(range(NAMES))

    async def writer() -> None:
        versions = itertools.count(start)
        for version in versions:
            name = f"r{next(names)}"
            done = asyncio.get_running_loop().create_future()
            layer.put(name, TextSnapshot(version, b'{"v":%d,"pad":"%b"}' % (version, b"x" * 150)),
                      waiter=done.set_result)  # fmt: skip
            if await done is None:
                os.write(1, f"{name} {version}\n".encode())

    os.write(1, b"ready\n")
    await asyncio.gather(*(writer() for _ in range(WRITERS)))


if __name__ == "__main__":
    uvloop.run(write_for_ever(*sys.argv[1:]))
