import json

from my_telemetry import UsageFile

from dsfast.testing import served


async def test_usage(tmp_path):
    options = {"file": str(tmp_path / "usage"), "interval": 3600}
    async with served({"telemetry": {"class": UsageFile, "options": options}}) as s:
        await s.connect()
        await s.services.telemetry.write()
    (line,) = (tmp_path / "usage").read_text().splitlines()
    assert json.loads(line)["bytes_out"] > 0
