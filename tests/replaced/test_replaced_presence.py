"""The tests of tests/test_presence.py, on services in plain Python."""

from tests.test_presence import *  # noqa: F403
