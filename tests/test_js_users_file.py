"""The official JavaScript client against ``dsfast serve`` with the files of a deepstream.io deployment."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_js_client import JS, environment, missing

USERS = """
# Username "userA", password "password"
userA:
  password: rCOSZxJrgze2AZdVQh12c6ErDMOG0M+Rx5Yu7S5d91c=GS4SbTQYmoaGwjm2shEobg==
  serverData:
    someOptional: auth-data
  clientData:
    favouriteColor: red
userB:
  password: jHPg24EDs9SKHALytrfaoEvDyz7wJgSVEY0ANaw/LgA=m5Ilfg/3+yN5j38tx8cBfA==
"""
LIST = """
auth:
  - type: file
    options:
      users: fileLoad(./users.yml)
      hash: md5
      iterations: 100
      keyLength: 32
"""
MAPPING = """
auth:
  type: file
  options:
    path: users.yml
    hash: RSA-MD5
    iterations: 100
    keyLength: 32
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("auth", [LIST, MAPPING], ids=["list", "mapping"])
def test_the_users_of_a_file_log_in(start, tmp_path: Path, auth: str) -> None:
    """The mapping form is open to everybody in deepstream.io."""
    assert missing() is None
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "users.yml").write_text(USERS)
    (conf / "config.yml").write_text(f"dataDir: {tmp_path / 'data'}\n{auth}")
    server = start("serve", "--host", "127.0.0.1", "--port", "0", "-c", conf / "config.yml").ready()
    assert "auth: File Authentication" in server.active
    runner = subprocess.run(
        ["node", str(JS / "run.mjs"), f"ws://127.0.0.1:{server.port}", "users"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    results = [json.loads(line) for line in runner.stdout.splitlines()]
    assert len(results) > 3, runner.stderr
    assert [result for result in results if not result["ok"]] == []
