"""Every server that a test in this folder starts has registries, states and locks in plain Python."""

import pytest

from dsfast import Server
from tests.replaced_services import REPLACED


@pytest.fixture(autouse=True)
def _services_in_python(monkeypatch):
    start = Server.start

    async def start_with_them(self):
        for key, plugin in REPLACED.items():
            self.set(key, plugin)
        await start(self)

    monkeypatch.setattr(Server, "start", start_with_them)
