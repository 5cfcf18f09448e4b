"""What the evaluation of a rule costs, in dsfast and in upstream's classes in Node.

    python -m bench.valve [--seconds 0.5] [--runs 5] [--upstream tests/js/oracle] [--json FILE]

Within a run the two take turns; shown is the median of the runs. In dsfast a row is one call of
``Rule.allows`` from Python, so about 25 ns of each figure are the call. Upstream has two columns: the
compiled function alone, and its whole decision with the rule found in its cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import timeit
from pathlib import Path
from statistics import median
from typing import Any

from dsfast._core.valve import Scope, compile_rule

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
    {"key": "data", "rule": "data.owner === user.id && data.cost < 10", "target": 1000},
    {"key": "data-more", "target": 1000,
     "rule": "user.data.role === 'admin' && data.tags.includes('y') && `${data.title}!` !== '!'"},
    {"key": "match", "rule": "data.title.match(/^[a-z ]{1,20}$/) !== null", "target": None},
    {"key": "reference", "rule": "_('shelf/' + $userId).left > 0", "target": 3000, "waits": True},
]  # fmt: skip


def by_dsfast(seconds: float) -> dict[str, float]:
    """Nanoseconds of each row."""
    scope = Scope(
        user_id=INPUTS["userId"], user_data=INPUTS["userData"], data=INPUTS["data"], now=1.7e12, action=2,
        name=INPUTS["name"], variables=[INPUTS["userId"]],
        reference={INPUTS["recordName"]: INPUTS["record"]}.get,
    )  # fmt: skip
    times = {}
    for row in ROWS:
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
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(by_dsfast(seconds))
        theirs.append(by_upstream(upstream, seconds))
    lines = []
    for row in ROWS:
        key = row["key"]
        alone = [run[key]["rule"] for run in theirs]
        lines.append({
            "key": key, "rule": row["rule"], "target": row["target"],
            "dsfast": median(run[key] for run in ours),
            "upstream_rule": None if None in alone else median(alone),
            "upstream_decision": median(run[key]["decision"] for run in theirs),
        })  # fmt: skip
    return lines


def main() -> int:
    """Measure and print; exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.valve", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="time of each measurement")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--upstream", type=Path, default=ROOT / "tests/js/oracle", help="where npm installed it"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    lines = measure(arguments.runs, arguments.seconds, arguments.upstream.resolve())
    print(
        "| rule | dsfast ns | target | upstream, function ns | upstream, decision ns |\n|---|---|---|---|---|"
    )
    for line in lines:
        figures = (line["dsfast"], line["target"], line["upstream_rule"], line["upstream_decision"])
        cells = ["-" if figure is None else f"{figure:.0f}" for figure in figures]
        print(f"| `{line['rule']}` | {' | '.join(cells)} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(lines, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
