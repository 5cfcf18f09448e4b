"""Which event loop a test runs on: a module may name some in ``loops``, the default is that of asyncio."""

import asyncio

import pytest
import uvloop

FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, object]:
    """The loops for the tests of one module."""
    module = item.getparent(pytest.Module)
    names = getattr(module.obj, "loops", ["asyncio"]) if module is not None else ["asyncio"]
    return {name: FACTORIES[name] for name in names}
