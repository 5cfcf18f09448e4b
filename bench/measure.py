"""Runs the load generator against one freshly started server."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from time import sleep
from typing import Any

from .build import BUILD, LOAD, BenchError
from .peers import Peer, Start, free_port, running
from .rows import Row

Options = dict[str, int | float | str]
Report = dict[str, Any]

SETTLE = 1.0
"""Seconds between the last login and the look at the server's memory."""


class RowError(Exception):
    """This measurement failed; the row shows the reason instead of a number."""


def measure(row: Row, peer: Peer, options: Options, cores: tuple[int, int]) -> Report:
    """One run: start the server, load it, stop it. Gives the generator's report.

    A report has `value`, the row's figure, besides what the generator printed.

    Raises:
        RowError: wrong message counts, a lost connection, a server that does not start.
    """
    runs = BUILD / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{peer.key}-", dir=runs))
    server_core, load_core = cores
    try:
        start = Start(free_port(), directory, row.storage, row.rules, row.protocol)
        with running(peer, start, server_core) as pid:
            fixed: Options = {
                "protocol": row.protocol or peer.protocol,
                "port": start.port,
                "watch": pid,
                "scenario": row.scenario,
            }
            load = _Load({**options, **fixed}, load_core)
            if row.kind == "memory":
                return _memory(load, pid)
            report = load.run()
            report["value"] = report["latency_ms"]["p99"] if row.kind == "latency" else report["rate"]
            return report
    except BenchError as error:
        raise RowError(str(error)) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Load:
    """Command line and answer of the generator."""

    def __init__(self, options: Options, core: int) -> None:
        self._base = ["taskset", "-c", str(core), str(LOAD)]
        self._options = options

    def command(self, **changes: int | float | str) -> list[str]:
        options = {**self._options, **changes}
        return self._base + [word for key, value in options.items() for word in (f"--{key}", str(value))]

    def run(self, **changes: int | float | str) -> Report:
        """Run to the end; the report.

        Raises:
            RowError: when the generator reports an error.
        """
        done = subprocess.run(self.command(**changes), capture_output=True, text=True, check=False)
        return _report(done.stdout, done.stderr)


def _memory(load: _Load, pid: int) -> Report:
    load.run(count=100, hold=0)
    before = _resident(pid)
    process = subprocess.Popen(load.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        report = _report(process.stdout.readline(), "")
        sleep(SETTLE)
        after = _resident(pid)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
    report["value"] = (after - before) / report["units"]
    report["resident_kib"] = {"before": before, "after": after}
    return report


def _resident(pid: int) -> int:
    """Resident memory of a process in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RowError("the server is gone")


def _report(out: str, err: str) -> Report:
    lines = out.strip().splitlines()
    try:
        report: Report = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise RowError(f"the generator said nothing sensible: {(out + err)[-300:]}") from None
    if "error" in report:
        raise RowError(str(report["error"]))
    return report
