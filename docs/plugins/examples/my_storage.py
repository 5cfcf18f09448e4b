"""Keeps each record in a file of its own. Simple, safe, and slow."""

import asyncio
import hashlib
import json
import os
from pathlib import Path

from dsfast import PluginError, Storage


class JsonFiles(Storage):
    description = "one JSON file per record"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        if not isinstance(options.get("directory"), str):
            raise PluginError("option directory: expected text")
        self.directory = Path(options["directory"])

    async def when_ready(self):
        await asyncio.to_thread(self.directory.mkdir, parents=True, exist_ok=True)

    async def get(self, name):
        return await asyncio.to_thread(self.read, self.path(name))

    async def set(self, name, version, data):
        text = json.dumps({"name": name, "version": version, "data": data})
        await asyncio.to_thread(self.write, self.path(name), text)

    async def delete(self, name):
        await asyncio.to_thread(self.path(name).unlink, missing_ok=True)

    def path(self, name):
        """Names may be anything, so the file is called by their hash; the name is inside."""
        return self.directory / f"{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}.json"

    def read(self, path):
        try:
            row = json.loads(path.read_text())
        except FileNotFoundError:
            return -1, None
        return row["version"], row["data"]

    def write(self, path, text):
        """The server acknowledges a write when this returns: it has to be on the disk by then."""
        new = path.with_suffix(".new")
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
