import os

from my_locks import FileLocks

from dsfast.testing import started


async def test_locks(tmp_path):
    options = {"directory": str(tmp_path)}
    async with started(FileLocks, options) as one, started(FileLocks, options) as two:
        assert await one.get("a/b")
        assert not await two.get("a/b")
        two.release("a/b")  # it does not hold it
        assert not await two.get("a/b")
        assert await one.renew("a/b")
        one.release("a/b")
        assert await two.get("a/b")
        os.utime(two.path("a/b"), (0, 0))  # its holder has died long ago
        assert await one.get("a/b")
        assert not await two.renew("a/b")
        two.release("a/b")  # too late: it is somebody else's now
        assert not await two.get("a/b")
