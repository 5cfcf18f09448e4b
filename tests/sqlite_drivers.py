"""The drivers of SQLite that tests run on, in this process and in others."""

import os
from pathlib import Path

from dsfast.services.storage import sqlite_driver

TESTS = Path(__file__).parent
CLASSES = {"apsw": sqlite_driver.ApswConnection, "sqlite3": sqlite_driver.StandardConnection}
DRIVERS = tuple(CLASSES)


def use(monkeypatch, driver):
    """This process has that driver; what an old library has to warn about has tests of its own."""
    monkeypatch.setattr(sqlite_driver, "driver", CLASSES[driver])
    monkeypatch.setattr(sqlite_driver, "warning", lambda: None)


def environment(driver):
    """Variables of another process that is to have that driver."""
    places = [TESTS.parent] if driver == "apsw" else [TESTS / "without_apsw", TESTS.parent]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
