"""Command line of the benchmark: `python -m bench --help`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .build import BUILD, HERE, BenchError, build
from .measure import Options, RowError, measure
from .peers import Peer, all_peers
from .report import Cell, Line, as_json, as_markdown, file_stem, is_saturated, machine, number
from .rows import EVERYBODY, Row, select

RESULTS = HERE / "results"
QUICK_PEERS = "dsfast,broadcaster"
PROBE = 0.3
"""Seconds for which a window is tried, and before that for warming up."""
BUSY = 0.5
"""Load average above which the figures are not worth keeping."""


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure dsfast and its peers.")
    parser.add_argument(
        "--quick", action="store_true", help="smoke run: few rows, dsfast and broadcaster only"
    )
    parser.add_argument("--only", help="groups or rows, comma separated; a row also by the start of its key")
    parser.add_argument("--runs", type=int, help="runs of each row (default 5, quick 1)")
    parser.add_argument("--seconds", type=float, help="time measured in a run (default 2)")
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds before that")
    parser.add_argument("--peers", help=f"comma separated, of {', '.join(EVERYBODY)}")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    parser.add_argument("--spin", action="store_true",
                        help="the generator polls instead of sleeping between bursts")  # fmt: skip
    parser.add_argument("--dsfast-command", help="instead of `python -m dsfast serve`; {port} is replaced")
    parser.add_argument("--output", type=Path, help="result files, without suffix (default bench/results/…)")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; exit code 0, or 1 when any row could not be measured."""
    args = arguments(sys.argv[1:] if argv is None else argv)
    try:
        rows = select(args.only, args.quick)
        if args.list:
            for row in rows:
                print(f"{row.group:12} {row.key:24} {row.title} [{row.unit}]")
            return 0
        return _run(args, rows)
    except (BenchError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace, rows: list[Row]) -> int:
    peers = _chosen_peers(args)
    _check_machine(args)
    build()
    for peer in peers.values():
        peer.install()
    runs = args.runs or (1 if args.quick else 5)
    seconds = args.seconds or (0.3 if args.quick else 2.0)
    settings: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine(), "quick": args.quick, "runs": runs, "seconds": seconds,
        "warmup": 0.1 if args.quick else args.warmup, "spin": args.spin,
        "server_core": args.server_core, "load_core": args.load_core,
        "versions": {key: peer.version() for key, peer in peers.items()},
    }  # fmt: skip
    busy = settings["machine"]["load_average"]
    if busy > BUSY and not args.quick:
        print(f"warning: load average {busy:.2f}: this machine has other work to do", file=sys.stderr)
    stem = args.output or (BUILD / "quick" if args.quick else file_stem(RESULTS))
    stem.parent.mkdir(parents=True, exist_ok=True)
    lines: list[Line] = []
    table = ""
    for row in rows:
        lines.append(_measure_row(row, peers, runs, settings))
        # after every row, so that an interrupted run is not lost
        table = as_markdown(lines, peers, settings)
        stem.with_suffix(".json").write_text(json.dumps(as_json(lines, peers, settings), indent=1) + "\n")
        stem.with_suffix(".md").write_text(table)
    shutil.rmtree(BUILD / "runs", ignore_errors=True)
    print(table)
    print(f"written: {stem}.json and .md", file=sys.stderr)
    failed = any(cell.errors for line in lines for cell in line.cells.values())
    return 1 if failed else 0


def _chosen_peers(args: argparse.Namespace) -> dict[str, Peer]:
    wanted = (args.peers or (QUICK_PEERS if args.quick else ",".join(EVERYBODY))).split(",")
    peers = all_peers(args.dsfast_command)
    for key in wanted:
        if key not in peers:
            raise BenchError(f"unknown peer {key}; known: {', '.join(peers)}")
    return {key: peer for key, peer in peers.items() if key in wanted}


def _check_machine(args: argparse.Namespace) -> None:
    if shutil.which("taskset") is None:
        raise BenchError("taskset is missing; on Debian: apt-get install util-linux")
    cores = os.sched_getaffinity(0)
    for core in (args.server_core, args.load_core):
        if core not in cores:
            raise BenchError(f"core {core} is not available here; choose with --server-core and --load-core")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _measure_row(row: Row, peers: dict[str, Peer], runs: int, settings: dict[str, Any]) -> Line:
    """All runs of a row; in each run every peer has its turn."""
    cells = {key: Cell(absent=row.absent.get(key, "")) for key in peers}
    cores = settings["server_core"], settings["load_core"]
    options = row.options_of(settings["quick"])
    options.update(warmup=settings["warmup"], seconds=settings["seconds"], spin=int(settings["spin"]))
    for run in range(runs):
        for key, peer in peers.items():
            cell = cells[key]
            if cell.absent or cell.errors:
                continue
            if row.windows and cell.window is None:
                cell.window = _wide_window(row, peer, options, cores)
            own = options if cell.window is None else {**options, "window": cell.window}
            try:
                report = measure(row, peer, own, cores)
            except RowError as error:
                cell.errors.append(str(error))
                print(f"{row.key} {key} run {run + 1}: error: {error}", file=sys.stderr)
            else:
                cell.reports.append(report)
                print(f"{row.key} {key} run {run + 1}: {number(report['value'])} {row.unit}, server "
                      f"{report['server_cpu']:.0%}, generator {report['generator_cpu']:.0%}",
                      file=sys.stderr)  # fmt: skip
    return Line(row, cells)


def _wide_window(row: Row, peer: Peer, options: Options, cores: tuple[int, int]) -> int:
    """The smallest of the row's windows that leaves a core no time to rest; else the one that leaves least.

    A try that fails says nothing here: the measurement will.
    """
    brief = {**options, "warmup": PROBE, "seconds": PROBE}
    busiest = (0.0, row.windows[0])
    for window in row.windows:
        try:
            report = measure(row, peer, {**brief, "window": window}, cores)
        except RowError:
            continue
        print(f"{row.key} {peer.key} window {window}: server {report['server_cpu']:.0%}, generator "
              f"{report['generator_cpu']:.0%}", file=sys.stderr)  # fmt: skip
        if is_saturated(report):
            return window
        busiest = max(busiest, (float(report["server_cpu"]), window))
    return busiest[1]


if __name__ == "__main__":
    sys.exit(main())
