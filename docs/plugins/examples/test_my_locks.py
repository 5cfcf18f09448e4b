import os

import pytest
from my_locks import FileLocks

from dsfast.testing import LockConformance, started


class TestFileLocks(LockConformance):
    plugin_class = FileLocks

    @pytest.fixture
    def options(self, tmp_path):
        return {"directory": str(tmp_path), "holdTimeout": 60_000}

    @pytest.fixture
    async def other(self, options):
        async with started(FileLocks, options, config={"serverName": "other"}) as other:
            yield other


async def test_the_lock_of_a_dead_server_is_taken_over(tmp_path):
    options = {"directory": str(tmp_path)}
    async with started(FileLocks, options) as one, started(FileLocks, options) as two:
        assert await one.get("a/b")
        os.utime(one.path("a/b"), (0, 0))  # it has said nothing for long
        assert await two.get("a/b")
        assert not await one.renew("a/b")
        one.release("a/b")  # too late: it is somebody else's now
        assert not await one.get("a/b")
