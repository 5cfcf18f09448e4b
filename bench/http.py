"""Requests per second of the HTTP API, beside upstream's (ws mode) in the same run.

    python -m bench.http [--seconds 2] [--runs 3] [--connections 32] [--json FILE]

The load generator is wrk (Debian package), one thread on its own core, with kept connections that each have
one request in flight. Both servers run at the same time on one core and take turns; within a run each gets a
warm-up. Shown are medians of the runs, and of the ratios within a run. "Per core" is requests per second of
the server's processor time: other work on the machine takes time from both, but leaves that figure alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import Request, urlopen

from .build import BenchError
from .peers import Dsfast, Peer, Start, Upstream, debian_package, free_port, running

EMIT = {"topic": "event", "action": "emit", "eventName": "e", "data": {"x": 1}}
READ = {"topic": "record", "action": "read", "recordName": "r"}
WRITE = {"topic": "record", "action": "write", "recordName": "r", "path": "a.b", "data": {"x": 1}}
RECORD = {"topic": "record", "action": "write", "recordName": "r", "data": {"a": {"b": 1}, "c": "x" * 70}}
ROWS = {
    "emit": [EMIT],
    "read": [READ],
    "patch": [WRITE],
    "emit-100": [EMIT] * 100,
    "read-100": [READ] * 100,
}
TIMES_UPSTREAM = 5.0
"""What the project wants."""
TICKS = os.sysconf("SC_CLK_TCK")


def measure(port: int, pid: int, script: Path, seconds: int, connections: int) -> tuple[float, float]:
    """Requests per second, and per second of the server's processor time."""
    url = f"http://127.0.0.1:{port}/api"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    before = _processor_time(pid)
    done = subprocess.run(["taskset", "-c", "1", *command], capture_output=True, text=True, check=True)
    used = _processor_time(pid) - before
    if re.search(r"Non-2xx|Socket errors", done.stdout):
        raise BenchError(f"not all requests were answered: {done.stdout}")
    requests, duration = re.search(r"(\d+) requests in ([\d.]+)s", done.stdout).groups()  # type: ignore[union-attr]
    return int(requests) / float(duration), int(requests) / used


def _processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _script(directory: Path, key: str, elements: list[Any]) -> Path:
    body = json.dumps({"body": elements}, separators=(",", ":"))
    script = directory / f"{key}.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\nwrk.body = [==[{body}]==]\n'
    )
    return script


def _prepare(port: int) -> None:
    """The record that is read; every answer has to be a success."""
    for elements in ([RECORD], *ROWS.values()):
        body = json.dumps({"body": elements}).encode()
        request = Request(f"http://127.0.0.1:{port}/api", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=20) as answer:
            if json.load(answer)["result"] != "SUCCESS":
                raise BenchError(f"port {port} does not do what is measured")


def run(seconds: int, runs: int, connections: int) -> dict[str, Any]:
    """All rows, for both."""
    debian_package("wrk", "wrk")
    peers: list[Peer] = [Dsfast(), Upstream()]
    for peer in peers:
        peer.install()
    found: dict[str, dict[str, list[tuple[float, float]]]] = {key: {} for key in ROWS}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scripts = {key: _script(directory, key, elements) for key, elements in ROWS.items()}
        servers = []
        for peer in peers:
            place = directory / peer.key
            place.mkdir()
            start = Start(free_port(), place)
            servers.append((peer, start.port, stack.enter_context(running(peer, start, 0))))
            _prepare(start.port)
        for key, script in scripts.items():
            for _ in range(runs):
                for peer, port, pid in servers:
                    measure(port, pid, script, 1, connections)
                    figures = measure(port, pid, script, seconds, connections)
                    found[key].setdefault(peer.key, []).append(figures)
    return {
        "versions": {peer.key: peer.version() for peer in peers},
        "rows": {key: _row(of["dsfast"], of["upstream"]) for key, of in found.items()},
    }


def _row(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> dict[str, float]:
    return {
        "dsfast": median(rate for rate, _ in ours),
        "upstream": median(rate for rate, _ in theirs),
        "dsfast_per_core": median(rate for _, rate in ours),
        "upstream_per_core": median(rate for _, rate in theirs),
        "ratio_per_core": median(a / b for (_, a), (_, b) in zip(ours, theirs, strict=True)),
    }


def main() -> int:
    """Run the benchmark; exit code 1 when it could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.http", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        result = run(args.seconds, args.runs, args.connections)
    except (BenchError, OSError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    for key, row in result["rows"].items():
        verdict = "reached" if row["ratio_per_core"] >= TIMES_UPSTREAM else "missed"
        print(
            f"{key:10} dsfast {row['dsfast']:9.0f}/s ({row['dsfast_per_core']:9.0f} per core)   "
            f"upstream {row['upstream']:9.0f}/s ({row['upstream_per_core']:9.0f} per core)   "
            f"x{row['ratio_per_core']:.1f} ({TIMES_UPSTREAM:g} {verdict})"
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
