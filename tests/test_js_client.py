"""The official JavaScript clients against a server process: the cases of ``tests/js/suites``, one test each.

A suite runs over each of its transports: the present client over the binary protocol and in its JSON mode,
the one of before version 4 over text. Each such run has its own server process (``tests/js_server.py``) and
one Node process that runs its selected cases. ``npm ci`` in ``tests/js`` has to be done before. With
``DSFAST_ORACLE=1`` the binary cases run against the reference server instead (``npm ci`` in
``tests/js/oracle``). Cases that cannot pass there, or over JSON, are skipped with the reason.
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
from concurrent.futures import Future, ThreadPoolExecutor
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
    """A suite: the configuration of its server, how its clients talk, and its cases with what keeps them."""

    name: str
    config: dict[str, Any]
    transports: list[str]
    cases: dict[str, dict[str, str]]

    def obstacle(self, name: str, transport: str) -> str | None:
        """Why a case cannot pass."""
        case = self.cases[name]
        if ON_ORACLE and "oracle" in case:
            return f"the reference server {case['oracle']}"
        if transport == "json" and "json" in case:
            return f"the client {case['json']}"
        return None


@cache
def suites() -> dict[str, Suite]:
    """All suites by name; empty if something has to be installed."""
    if missing():
        return {}
    output = subprocess.run(
        ["node", str(JS / "run.mjs"), "--list"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    entries = [json.loads(line) for line in output.splitlines()]
    found = {}
    for entry in entries:
        transports = [name for name in entry["transports"] if name == "binary" or not ON_ORACLE]
        cases = {case["name"]: case for case in entry["cases"]}
        found[entry["suite"]] = Suite(entry["suite"], entry["config"], transports, cases)
    return found


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
    """Runs each suite once per transport, with the cases that pytest has selected.

    Some run at the same time: most of their time is waiting.
    """

    def __init__(self, selected: dict[tuple[str, str], list[str]], directory: Path) -> None:
        self.selected = selected
        self._directory = directory
        self._pool = ThreadPoolExecutor((os.cpu_count() or 1) + 1)
        self._runs: dict[tuple[str, str], Future[Run]] = {}

    def of(self, suite: str, transport: str) -> Run:
        """The run of that suite. The first call starts all runs."""
        if not self._runs:
            self._runs = {key: self._pool.submit(self._run, *key) for key in self.selected}
        return self._runs[suite, transport].result()

    def close(self) -> None:
        """Start no further run."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, name: str, transport: str) -> Run:
        suite = suites()[name]
        log = self._directory / f"{suite.name}-{transport}.log"
        server = ServerProcess(suite.config, log)
        try:
            names = [argument for case in self.selected[name, transport] for argument in ("--case", case)]
            runner = subprocess.run(
                ["node", str(JS / "run.mjs"), server.url, suite.name, "--transport", transport, *names],
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
    selected: dict[tuple[str, str], list[str]] = defaultdict(list)
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname == "test_case":
            suite, transport, name = (item.callspec.params[key] for key in ("suite", "transport", "name"))
            if not suites()[suite].obstacle(name, transport):
                selected[suite, transport].append(name)
    runs = Runs(dict(selected), tmp_path_factory.mktemp("js"))
    yield runs
    runs.close()


def test_node_and_npm_packages_are_installed() -> None:
    assert missing() is None


@pytest.mark.parametrize(
    ("suite", "transport", "name"),
    [
        pytest.param(
            suite.name,
            transport,
            name,
            id=f"{suite.name}, {transport}: {name}".encode("ascii", "replace").decode(),
        )
        for suite in suites().values()
        for transport in suite.transports
        for name in suite.cases
    ],
)
def test_case(runs: Runs, suite: str, transport: str, name: str) -> None:
    obstacle = suites()[suite].obstacle(name, transport)
    if obstacle:
        pytest.skip(obstacle)
    run = runs.of(suite, transport)
    result = run.results.get(name)
    assert result is not None, f"the runner ended before this case: {run.runner_errors}"
    if not result["ok"]:
        pytest.fail(f"{result['error']}\n\nserver log:\n{run.server_log[-4000:]}", pytrace=False)


@pytest.mark.parametrize(
    ("suite", "transport"),
    [(suite.name, transport) for suite in suites().values() for transport in suite.transports],
)
def test_server_of_the_suite_stops_cleanly(runs: Runs, suite: str, transport: str) -> None:
    """After all cases the server has ended with code 0 and has logged no unexpected exception."""
    if (suite, transport) not in runs.selected:
        pytest.skip("no case of this suite was selected")
    run = runs.of(suite, transport)
    assert run.exit_code == 0, run.server_log[-4000:]
    assert "Traceback" not in run.server_log, run.server_log[-8000:]
