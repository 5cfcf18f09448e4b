"""The official JavaScript client against a running server: the cases of ``tests/js/suites``, one test each.

Each suite has its own server process (``tests/js_server.py``) and one Node process that runs its selected
cases. ``npm ci`` in ``tests/js`` has to be done before. With ``DSFAST_ORACLE=1`` the cases run against the
reference server instead (``npm ci`` in ``tests/js/oracle``); cases that it cannot pass are skipped there with
the reason.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
JS = ROOT / "tests" / "js"
ON_ORACLE = os.environ.get("DSFAST_ORACLE") == "1"
START_LIMIT = 20.0
STOP_LIMIT = 20.0
# A hanging case ends after 10 s by itself; this bound is for a runner that hangs.
SUITE_LIMIT = 900.0

Result = dict[str, Any]


def environment() -> dict[str, str]:
    """What the child processes need: the package in the tree, and the Python that runs servers."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "DSFAST_PYTHON": sys.executable}


def missing() -> str | None:
    """What has to be installed before the cases can run."""
    if shutil.which("node") is None:
        return "node is not installed"
    for directory in [JS, JS / "oracle"] if ON_ORACLE else [JS]:
        if not (directory / "node_modules").is_dir():
            return f"npm packages are missing: run 'npm ci' in {directory.relative_to(ROOT)}"
    return None


@dataclass(frozen=True)
class Suite:
    """A suite: the configuration of its server, and its cases with the reference server's fault."""

    name: str
    config: dict[str, Any]
    cases: dict[str, str | None]


@cache
def suites() -> dict[str, Suite]:
    """All suites by name; empty if something has to be installed."""
    if missing():
        return {}
    output = subprocess.run(
        ["node", str(JS / "run.mjs"), "--list"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    entries = [json.loads(line) for line in output.splitlines()]
    return {
        entry["suite"]: Suite(
            entry["suite"], entry["config"], {case["name"]: case.get("oracle") for case in entry["cases"]}
        )
        for entry in entries
    }


class ServerProcess:
    """A test server in a process of its own."""

    def __init__(self, config: dict[str, Any], log: Path) -> None:
        program = (
            ["node", str(JS / "oracle" / "server.mjs")]
            if ON_ORACLE
            else [sys.executable, str(ROOT / "tests" / "js_server.py")]
        )
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*program, "--port", "0", "--config", json.dumps(config)],
                cwd=ROOT,
                env={**environment(), "TMPDIR": str(log.parent)},
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        try:
            self.url = f"ws://127.0.0.1:{self._wait_for_port()}"
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _wait_for_port(self) -> int:
        assert self.process.stdout is not None
        text = b""
        end = time.monotonic() + START_LIMIT
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while selector.select(end - time.monotonic()):
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    break
                text += data
                for line in text.splitlines():
                    if line.startswith(b'{"ready"') and line.endswith(b"}"):
                        return int(json.loads(line)["port"])
        raise RuntimeError(f"the server did not start: {text!r} {self.log.read_text()}")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process.stdout is not None
        self.process.terminate()
        try:
            code = self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process.stdout.close()
        return code


@dataclass
class Run:
    """What one run of a suite brought."""

    results: dict[str, Result]
    runner_errors: str
    exit_code: int
    server_log: str


class Runs:
    """Runs each suite once, with the cases that pytest has selected."""

    def __init__(self, selected: dict[str, list[str]], directory: Path) -> None:
        self.selected = selected
        self._directory = directory
        self._runs: dict[str, Run] = {}

    def of(self, suite: str) -> Run:
        """The run of that suite, made at the first call."""
        if suite not in self._runs:
            self._runs[suite] = self._run(suites()[suite])
        return self._runs[suite]

    def _run(self, suite: Suite) -> Run:
        log = self._directory / f"{suite.name}.log"
        server = ServerProcess(suite.config, log)
        try:
            names = [argument for name in self.selected[suite.name] for argument in ("--case", name)]
            runner = subprocess.run(
                ["node", str(JS / "run.mjs"), server.url, suite.name, *names],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=SUITE_LIMIT,
                check=False,
            )
        finally:
            code = server.stop()
        results = {}
        for line in runner.stdout.splitlines():
            if line.startswith("{"):
                result = json.loads(line)
                results[result["name"]] = result
        return Run(results, runner.stderr, code, log.read_text(errors="replace"))


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    selected: dict[str, list[str]] = defaultdict(list)
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname == "test_case":
            suite, name = item.callspec.params["suite"], item.callspec.params["name"]
            if not (ON_ORACLE and suites()[suite].cases[name]):
                selected[suite].append(name)
    yield Runs(selected, tmp_path_factory.mktemp("js"))


def test_node_and_npm_packages_are_installed() -> None:
    assert missing() is None


@pytest.mark.parametrize(
    ("suite", "name"),
    [
        pytest.param(suite.name, name, id=f"{suite.name}: {name}".encode("ascii", "replace").decode())
        for suite in suites().values()
        for name in suite.cases
    ],
)
def test_case(runs: Runs, suite: str, name: str) -> None:
    fault = suites()[suite].cases[name]
    if ON_ORACLE and fault:
        pytest.skip(f"the reference server {fault}")
    run = runs.of(suite)
    result = run.results.get(name)
    assert result is not None, f"the runner ended before this case: {run.runner_errors}"
    if not result["ok"]:
        pytest.fail(f"{result['error']}\n\nserver log:\n{run.server_log[-4000:]}", pytrace=False)


@pytest.mark.parametrize("suite", list(suites()))
def test_server_of_the_suite_stops_cleanly(runs: Runs, suite: str) -> None:
    """After all cases the server has ended with code 0 and has logged no unexpected exception."""
    if not runs.selected[suite]:
        pytest.skip("no case of this suite was selected")
    run = runs.of(suite)
    assert run.exit_code == 0, run.server_log[-4000:]
    assert "Traceback" not in run.server_log, run.server_log[-8000:]
