"""The tests of tests/test_permission_order.py, on services in plain Python."""

from tests.test_permission_order import *  # noqa: F403
