"""Writes a line about the use of the server into a file, every now and then; nothing leaves the machine."""

import asyncio
import contextlib
import json
import time
from pathlib import Path

from dsfast.plugin import PluginError, Telemetry


class UsageFile(Telemetry):
    description = "usage in a file"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        if not isinstance(options.get("file"), str):
            raise PluginError("option file: expected text")
        self.file = Path(options["file"])
        self.interval = options.get("interval", 3600)  # seconds
        self.task = None

    async def when_ready(self):
        self.task = asyncio.create_task(self.repeat())

    async def close(self):
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    async def repeat(self):
        while True:
            await asyncio.sleep(self.interval)
            try:
                await self.write()
            except OSError as error:  # a full disk is no reason to stop
                self.logger.warn("TELEMETRY", str(error))

    async def write(self):
        stats = self.services.message_distributor.stats()["hub"]
        line = json.dumps({"time": int(time.time()), "server": self.config.server_name, **stats})
        await asyncio.to_thread(self.append, line)

    def append(self, line):
        with self.file.open("a") as file:
            file.write(line + "\n")
