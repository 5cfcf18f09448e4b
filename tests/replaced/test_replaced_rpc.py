"""The tests of tests/test_rpc.py, on services in plain Python."""

from tests.test_rpc import *  # noqa: F403
