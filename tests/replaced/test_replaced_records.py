"""The tests of tests/test_records.py, on services in plain Python."""

from tests.test_records import *  # noqa: F403
