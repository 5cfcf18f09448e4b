"""Keeps records in two dictionaries: versions apart from data, so that versions alone are cheap to read."""

from dsfast import Cache


class DictCache(Cache):
    description = "dictionaries"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        self.versions = {}
        self.data = {}

    async def get(self, name):
        return (self.versions[name], self.data[name]) if name in self.versions else (-1, None)

    async def set(self, name, version, data):
        self.versions[name] = version
        self.data[name] = data  # a parsed JSON value; nobody changes it, neither we nor the server

    async def delete(self, name):
        self.versions.pop(name, None)
        self.data.pop(name, None)

    async def head_bulk(self, names):
        found = {name: self.versions[name] for name in names if name in self.versions}
        return found, [name for name in names if name not in found]
