"""The tests of tests/test_events.py, on services in plain Python."""

from tests.test_events import *  # noqa: F403
