"""The official JavaScript client against ``dsfast serve`` with files of users and of permission rules."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_js_client import JS, environment, missing, suites


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("given", ["fileLoad", "path"])
def test_the_rules_of_a_file_hold(start, tmp_path: Path, given: str) -> None:
    """config.yml, users.yml and permissions.yml side by side, with both ways to name the last."""
    assert missing() is None
    suite = suites()["valve"]
    (auth,) = suite.config["auth"]
    conf = tmp_path / "conf"
    conf.mkdir()
    users = auth["options"].pop("users")
    rules = suite.config["permission"]["options"]["permissions"]
    (conf / "users.yml").write_text(json.dumps(users))
    (conf / "permissions.yml").write_text(json.dumps(rules, indent=1))
    named = (
        {"permissions": "fileLoad(permissions.yml)"} if given == "fileLoad" else {"path": "permissions.yml"}
    )
    config = {
        "dataDir": str(tmp_path / "data"),
        "auth": [{"type": "file", "options": {**auth["options"], "users": "fileLoad(users.yml)"}}],
        "permission": {"type": "config", "options": named},
    }
    auth["options"]["users"] = users  # the suite is shared
    (conf / "config.yml").write_text(json.dumps(config))
    server = start("serve", "--host", "127.0.0.1", "--port", "0", "-c", conf / "config.yml").ready()
    assert "permission: Valve Permissions" in server.active
    runner = subprocess.run(
        ["node", str(JS / "run.mjs"), f"ws://127.0.0.1:{server.port}", "valve"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    results = [json.loads(line) for line in runner.stdout.splitlines()]
    assert len(results) == len(suite.cases), runner.stderr
    assert [result for result in results if not result["ok"]] == []
