"""Plugin ``heap-snapshot``: what the memory holds, written to files, for those who look for a leak."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from dsfast.plugin import Plugin, PluginError

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.config.schema import HeapSnapshotOptions
    from dsfast.services import Services

__all__ = ["HeapSnapshot"]

PREFIX = "dsfast-heap-"
TOP = 200
"""Types, and places of allocation, that are listed."""


class HeapSnapshot(Plugin):
    """Every ``interval`` ms, and when :meth:`take` is called, one JSON file in ``outputDir``.

    It has the number and the size of the objects that Python's garbage collector knows by their type, the
    growth of each since the last one, the counters of the core, and the memory of the process; with
    ``traceFrames`` the places in the source where most memory was allocated too. Objects of the core and
    plain texts are not among those that the collector knows: they are seen in the memory of the process and
    in the counters. The oldest files beyond ``maxFiles`` are removed.

    Counting is done in a thread and in slices, so that nobody waits for it.
    """

    options: HeapSnapshotOptions

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._directory = Path(self.options.output_dir)
        self._last: Counter[str] | None = None
        self._work: asyncio.Task[None] | None = None
        self._taking = asyncio.Lock()
        self._traces = False
        self.description = f"heap snapshots in {self._directory}"

    async def when_ready(self) -> None:
        """Make the directory and begin. Raises :class:`PluginError`."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise PluginError(f"outputDir: {error}") from None
        if self.options.trace_frames and not tracemalloc.is_tracing():
            tracemalloc.start(self.options.trace_frames)
            self._traces = True
        self._work = asyncio.create_task(self._repeat())

    async def close(self) -> None:
        """End it. A snapshot that is being taken is left out."""
        if self._work is not None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work
        if self._traces:
            tracemalloc.stop()
            self._traces = False

    async def take(self) -> Path:
        """Write a snapshot now; the path of its file. Raises OSError."""
        async with self._taking:
            now = time.time()
            counters = self.services.message_distributor.stats()
            counts, content = await asyncio.to_thread(_survey, self._last)
            content = {
                "server": self.config.server_name,
                "pid": os.getpid(),
                "time": int(now * 1000),
                "counters": counters,
                **content,
            }
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
            path = self._directory / f"{PREFIX}{os.getpid()}-{stamp}.{int(now * 1000) % 1000:03d}.json"
            await asyncio.to_thread(self._write, path, content)
            self._last = counts
            return path

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self.options.interval / 1000)
            try:
                path = await self.take()
            except Exception as error:
                self.logger.error("PLUGIN_ERROR", f"no heap snapshot: {error!r}")
            else:
                self.logger.info("INFO", f"heap snapshot: {path}")

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        # Under its final name a file is always complete.
        new = path.with_suffix(".new")
        new.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        new.replace(path)
        # The names begin with the process and go on with the time: those of this process in their order.
        own = sorted(self._directory.glob(f"{PREFIX}{os.getpid()}-*.json"))
        for old in own[: -self.options.max_files]:
            old.unlink(missing_ok=True)


def _survey(last: Counter[str] | None) -> tuple[Counter[str], dict[str, Any]]:
    """Count the objects; the counts by type, and what a snapshot says about them."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    objects = gc.get_objects()
    total = len(objects)
    while objects:
        # Piece by piece, so that what dies meanwhile is not kept alive, and other threads have their turn.
        piece = objects[-1000:]
        del objects[-1000:]
        for thing in piece:
            # Objects of anybody's classes: what they do when they are asked must not end the survey.
            with contextlib.suppress(Exception):
                name = _type_name(thing)
                counts[name] += 1
                sizes[name] += sys.getsizeof(thing)
        time.sleep(0)
    types = [
        {
            "type": name,
            "count": count,
            "bytes": sizes[name],
            **({} if last is None else {"growth": count - last[name]}),
        }
        for name, count in counts.most_common(TOP)
    ]
    content: dict[str, Any] = {"memory": _memory(), "objects": total, "types": types}
    if last is not None:
        grown = (counts - last).most_common(TOP)
        content["grown"] = [{"type": name, "growth": growth} for name, growth in grown]
    if tracemalloc.is_tracing():
        content["allocations"] = _allocations()
    return counts, content


def _type_name(thing: object) -> str:
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def _memory() -> dict[str, int]:
    """Bytes of the process, where the system tells."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return {
        key: int(fields[name].split()[0]) * 1024
        for key, name in (("resident", "VmRSS"), ("peak", "VmHWM"), ("virtual", "VmSize"))
        if name in fields
    }


def _allocations() -> list[dict[str, Any]]:
    snapshot = tracemalloc.take_snapshot()
    return [
        {"place": [str(frame) for frame in entry.traceback], "count": entry.count, "bytes": entry.size}
        for entry in snapshot.statistics("traceback")[:TOP]
    ]
