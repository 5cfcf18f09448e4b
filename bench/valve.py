"""What the evaluation of a rule and a whole decision cost, in dsfast and in upstream's classes in Node.

    python -m bench.valve [--seconds 0.5] [--runs 5] [--upstream DIRECTORY] [--names N] [--json FILE]

Within a run the two take turns; shown is the median of the runs. The rule alone is one call of
``Rule.allows`` from Python, so about 25 ns of each figure are the call; upstream has a compiled function.
A decision is what a server does with an event that has arrived: it finds the rule for its name, reads the
payload if the rule wants it, and evaluates; in upstream ``canPerformAction`` with its callback. In dsfast a
rule about nothing but name and user id is not evaluated again while the same user uses the same name, as in
the row "user". "Unseen" are names that nobody has used before. ``--names`` also measures what that many names
leave behind in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import timeit
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench.peers import UPSTREAM, Upstream
from dsfast._core.protocol import EventAction, Message, Topic
from dsfast._core.valve import Scope, compile_rule
from dsfast._core.valve_gate import ValveGate
from tests import wire

ROOT = Path(__file__).resolve().parent.parent
INPUTS: dict[str, Any] = {
    "path": "user/$userId",
    "name": "user/alice",
    "userId": "alice",
    "userData": {"role": "admin", "level": 3},
    "data": {"owner": "alice", "cost": 5, "title": "a title", "tags": ["x", "y"]},
    "recordName": "shelf/alice",
    "record": {"left": 3, "owner": "alice"},
}
ROWS = [
    {"key": "constant", "rule": "true", "target": 100},
    {"key": "user", "rule": "user.id === $userId", "target": 300},
    {"key": "user-data", "rule": "user.id === $userId && user.data.role === 'admin'", "target": 300},
    {"key": "data", "rule": "data.owner === user.id && data.cost < 10", "target": 1000},
    {"key": "data-more", "target": 1000,
     "rule": "user.data.role === 'admin' && data.tags.includes('y') && `${data.title}!` !== '!'"},
    {"key": "match", "rule": "data.title.match(/^[a-z ]{1,20}$/) !== null", "target": None},
    {"key": "reference", "rule": "_('shelf/' + $userId).left > 0", "target": 3000, "waits": True},
    {"key": "user-1000", "rule": "user.id === $userId", "target": 300, "others": 1000},
    {"key": "unseen", "rule": "user.id !== $userId", "target": None, "unseen": True},
    {"key": "unseen-1000", "rule": "user.id !== $userId", "target": None, "unseen": True, "others": 1000},
]  # fmt: skip
BATCH = 1000
"""Messages of one measurement; of unseen names no more than are measured at a time."""


def permissions(row: dict[str, Any]) -> dict[str, Any]:
    """A file with the row's rule and as many others as it wants."""
    paths: dict[str, Any] = {"*": {}, INPUTS["path"]: {"publish": row["rule"]}}
    for number in range(row.get("others", 0)):
        paths[f"room/{number}/$userId"] = {"publish": f"user.id === $userId && data.room === {number}"}
    everything: dict[str, Any] = {"*": {}}
    return {"record": everything, "rpc": everything, "presence": everything, "event": paths}


def event(name: str, data: bytes) -> Message:
    """An event as it arrives."""
    return Message(Topic.EVENT, EventAction.EMIT, name=name, data=data)


async def decisions(seconds: float) -> dict[str, float]:
    """Nanoseconds of each row for a whole decision, in a server with one client."""
    times = {}
    data = json.dumps(INPUTS["data"]).encode()
    for row in ROWS:
        async with serve(permissions(row)) as (gate, connection, records):
            records.store(INPUTS["recordName"], 1, json.dumps(INPUTS["record"]).encode())
            batches: list[float] = []
            while sum(batches) < seconds:
                if row.get("unseen"):
                    first = len(batches) * BATCH
                    messages = [event(f"user/{first + i}", data) for i in range(BATCH)]
                    batches.append(gate.measure(connection, messages))
                else:
                    batches.append(gate.measure(connection, [event(INPUTS["name"], data)], BATCH))
            # Of many batches the median: what else the machine does counts little.
            times[row["key"]] = median(batches) / BATCH * 1e9
    return times


async def memory(names: int) -> tuple[float, int]:
    """MiB by which a server grew when it has decided about so many names, and how many it remembers."""
    async with serve(permissions({"rule": "user.id !== $userId"})) as (gate, connection, _):
        gate.measure(connection, [event(f"user/first{i}", b"1") for i in range(BATCH)])
        before = resident()
        for first in range(0, names, BATCH):
            gate.measure(connection, [event(f"user/{first + i}", b"1") for i in range(BATCH)])
        return (resident() - before) / 1024, len(gate.table)


def resident() -> int:
    """Resident memory of this process in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS in /proc/self/status")


@asynccontextmanager
async def serve(rules: dict[str, Any]) -> AsyncIterator[tuple[ValveGate, Any, Any]]:
    """A server with these rules: its gate, the connection of one client, and its memory cache."""
    options = {"permissions": rules}
    async with wire.serve(
        {"permission": {"type": "config", "options": options}}, authentication=wire.Users
    ) as running:
        client = await running.challenged()
        login = {"username": INPUTS["userId"], "serverData": INPUTS["userData"]}
        client.send(wire.auth_request(json.dumps(login).encode()))
        await client.receive()
        permission: Any = running.services.permission
        yield permission.core, running.connection(INPUTS["userId"]), running.router.record_handler.cache


def by_dsfast(seconds: float) -> dict[str, float]:
    """Nanoseconds of each row, of the rule alone."""
    scope = Scope(
        user_id=INPUTS["userId"], user_data=INPUTS["userData"], data=INPUTS["data"], now=1.7e12, action=2,
        name=INPUTS["name"], variables=[INPUTS["userId"]],
        reference={INPUTS["recordName"]: INPUTS["record"]}.get,
    )  # fmt: skip
    times = {}
    for row in ROWS:
        if row.get("unseen") or row.get("others"):
            continue  # of the rule alone they are the same as others
        rule = compile_rule(row["rule"], ("userId",))
        if not rule.allows(scope):
            raise RuntimeError(f"{row['key']}: refused")
        timer = timeit.Timer("allows(scope)", globals={"allows": rule.allows, "scope": scope})
        count, took = timer.autorange()
        count = max(1, int(count * seconds / took))
        times[row["key"]] = timer.timeit(count) / count * 1e9
    return times


def by_upstream(directory: Path, seconds: float) -> dict[str, dict[str, float | None]]:
    """Nanoseconds of each row: of the rule alone, and of the whole decision."""
    output = subprocess.run(
        ["node", str(ROOT / "bench" / "valve_upstream.cjs"), str(directory)],
        input=json.dumps({"rows": ROWS, "inputs": INPUTS, "seconds": seconds}),
        check=True, stdout=subprocess.PIPE, text=True, timeout=600,
    ).stdout  # fmt: skip
    result: dict[str, dict[str, float | None]] = json.loads(output)
    return result


def measure(runs: int, seconds: float, upstream: Path) -> list[dict[str, Any]]:
    """The medians of all rows."""
    alone, ours, theirs = [], [], []
    for _ in range(runs):
        alone.append(by_dsfast(seconds))
        ours.append(asyncio.run(decisions(seconds)))
        theirs.append(by_upstream(upstream, seconds))
    lines = []
    for row in ROWS:
        key = row["key"]
        lines.append({
            "key": key, "rule": row["rule"], "target": row["target"],
            "dsfast_rule": middle(run.get(key) for run in alone),
            "dsfast_decision": middle(run[key] for run in ours),
            "upstream_rule": middle(run[key]["rule"] for run in theirs),
            "upstream_decision": middle(run[key]["decision"] for run in theirs),
            "times_upstream": median(
                their[key]["decision"] / our[key] for our, their in zip(ours, theirs, strict=True)
            ),
        })  # fmt: skip
    return lines


def middle(figures: Iterable[float | None]) -> float | None:
    """The median, None if there are none."""
    known = [figure for figure in figures if figure is not None]
    return median(known) if known else None


def main() -> int:
    """Measure and print; exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.valve", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="time of each measurement")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--upstream", type=Path, help="where npm has installed it; default: is done here")
    parser.add_argument("--names", type=int, help="also the memory that so many names take")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    if arguments.upstream is None:
        Upstream().install()
    upstream = (arguments.upstream or UPSTREAM).resolve()
    lines = measure(arguments.runs, arguments.seconds, upstream)
    print("| row | rule | rule ns | decision ns | target | upstream: rule | decision | times upstream |")
    print("|---|---|---|---|---|---|---|---|")
    columns = ("dsfast_rule", "dsfast_decision", "target", "upstream_rule", "upstream_decision")
    for line in lines:
        cells = ["-" if line[column] is None else f"{line[column]:.0f}" for column in columns]
        print(f"| {line['key']} | `{line['rule']}` | {' | '.join(cells)} | {line['times_upstream']:.1f} |")
    if arguments.names:
        grown, remembered = asyncio.run(memory(arguments.names))
        print(f"{arguments.names} names: {grown:.1f} MiB, {remembered} remembered")
    if arguments.json:
        arguments.json.write_text(json.dumps(lines, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
