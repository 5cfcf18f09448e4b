"""Which event loop a test runs on: a module may name some in ``loops``, the default is that of asyncio.

And what several test files need.
"""

import asyncio
import contextlib

import pytest
import uvloop

from tests.commands import COMMAND, Process

FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, object]:
    """The loops for the tests of one module."""
    module = item.getparent(pytest.Module)
    names = getattr(module.obj, "loops", ["asyncio"]) if module is not None else ["asyncio"]
    return {name: FACTORIES[name] for name in names}


@pytest.fixture
def start():
    """Starts ``dsfast`` (or another command) with arguments, and kills it at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, command=COMMAND, **others):
            process = Process([*command, *arguments], **others)
            stack.callback(process.close)
            return process

        yield start
