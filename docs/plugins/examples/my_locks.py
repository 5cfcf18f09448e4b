"""Locks as files in a directory that all servers share."""

import asyncio
import hashlib
import os
import time
from pathlib import Path

from dsfast.plugin import LockRegistry, PluginError


class FileLocks(LockRegistry):
    description = "lock files"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        if not isinstance(options.get("directory"), str):
            raise PluginError("option directory: expected text")
        self.directory = Path(options["directory"])
        self.hold = options.get("holdTimeout", 1000) / 1000
        self.held = {}

    async def when_ready(self):
        self.directory.mkdir(parents=True, exist_ok=True)

    async def get(self, name):
        return await asyncio.to_thread(self.take, name)

    def release(self, name):
        mark = self.held.pop(name, None)
        path = self.path(name)
        if mark is not None and self.mark(path) == mark:  # only our own, and only if it has not expired
            path.unlink(missing_ok=True)

    async def renew(self, name):
        path = self.path(name)
        if name not in self.held or self.mark(path) != self.held[name]:
            return False
        os.utime(path)
        return True

    def take(self, name):
        path, mark = self.path(name), f"{self.config.server_name} {time.time_ns()}"
        try:
            if time.time() - path.stat().st_mtime > self.hold:
                path.unlink(missing_ok=True)  # its holder is dead
        except FileNotFoundError:
            pass
        try:
            with path.open("x") as file:  # fails if it is there: that is the lock
                file.write(mark)
        except FileExistsError:
            return False
        self.held[name] = mark
        return True

    def path(self, name):
        return self.directory / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()

    def mark(self, path):
        try:
            return path.read_text()
        except FileNotFoundError:
            return None
