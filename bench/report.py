"""Result files and the printed table."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from .peers import Peer
from .rows import Row, Target

SATURATED = 0.95
"""Share of its core above which a process counts as being at its limit."""
DISTURBED = 0.05
"""Share of the time for which a server may have waited for its core."""
ABSENT, TIMES = "\u2013", "\u00d7"
DSFAST, YARDSTICK = "dsfast", "broadcaster"


def is_saturated(report: dict[str, Any]) -> bool:
    """The server or the generator had no time left, so a wider window would not give more.

    Time in which the server waits for its core counts: it had work to do.
    """
    server = report["server_cpu"] + report["server_wait"]
    return float(max(server, report["generator_cpu"])) >= SATURATED


@dataclass
class Cell:
    """What one peer reached in one row: a report per run, or why there is none."""

    reports: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    absent: str = ""
    window: int | None = None
    """The window, if it was chosen for this peer."""

    @property
    def value(self) -> float | None:
        """Median of the runs; None when there is none or any run failed."""
        if self.errors or not self.reports:
            return None
        return float(median(report["value"] for report in self.reports))

    @property
    def spread(self) -> float:
        """Largest minus smallest run, as a share of the median."""
        values = [float(report["value"]) for report in self.reports]
        middle = median(values)
        return (max(values) - min(values)) / middle if middle else 0.0

    @property
    def generator_bound(self) -> bool:
        """The generator had no time left while the server had: the server may be faster than this."""
        return bool(self.reports) and self.share("generator_cpu") >= SATURATED > self.share("server_cpu")

    @property
    def disturbed(self) -> bool:
        """Something else wanted the server's core."""
        return bool(self.reports) and self.share("server_wait") > DISTURBED

    def share(self, name: str) -> float:
        """Median over the runs of a share of the time."""
        return float(median(report.get(name, 0.0) for report in self.reports))

    def quantiles(self) -> dict[str, float]:
        """Median over the runs of each latency quantile, in ms."""
        names = ("p50", "p99", "p99.9", "max")
        return {name: median(report["latency_ms"][name] for report in self.reports) for name in names}


@dataclass
class Line:
    """A row with what everybody reached."""

    row: Row
    cells: dict[str, Cell]

    @property
    def core_busy(self) -> str:
        """How much of its core dsfast used, in words for the table."""
        cell = self.cells.get(DSFAST)
        if cell is None or cell.value is None or self.row.kind != "rate":
            return ""
        return f"{min(cell.share('server_cpu'), 1):.0%}".replace("%", " %")

    def ratio(self, other: str) -> float | None:
        """Median over the runs of dsfast's figure divided by another's of the same run."""
        mine, theirs = self.cells.get(DSFAST), self.cells.get(other)
        if mine is None or theirs is None or mine.value is None or theirs.value is None:
            return None
        same_run = zip(mine.reports, theirs.reports, strict=True)
        return median(float(a["value"] / b["value"]) for a, b in same_run)

    def best_peer(self) -> str | None:
        """The best of the real servers other than dsfast."""
        figures = [
            (cell.value, key)
            for key, cell in self.cells.items()
            if key not in (DSFAST, YARDSTICK) and cell.value is not None
        ]
        if not figures:
            return None
        return (min(figures) if self.row.lower_is_better else max(figures))[1]

    def verdict(self) -> str:
        """Whether the figures wanted are met."""
        target = self.row.target
        if target is None or DSFAST not in self.cells:
            return ""
        mine = self.ratio(target.of) if target.of else self.cells[DSFAST].value
        if mine is None:
            return "?"
        sign = -1 if self.row.lower_is_better else 1
        if sign * mine < sign * target.at_least:
            return "**not met**"
        if target.aim is not None and sign * mine >= sign * target.aim:
            return "aim met"
        return "met"


def cpu_model() -> str:
    """Name of the processor."""
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return match.group(1) if match else platform.machine()


def machine() -> dict[str, Any]:
    """What a reader must know about the machine."""
    return {
        "cpu": cpu_model(), "cores": os.cpu_count(), "kernel": platform.release(),
        "python": platform.python_version(), "load_average": os.getloadavg()[0],
    }  # fmt: skip


def file_stem(folder: Path) -> Path:
    """`<date>-<cpu>` in the folder, with a number if that is taken."""
    cpu = re.sub(r"[^a-z0-9]+", "-", cpu_model().lower()).strip("-")
    stem = f"{datetime.now(UTC):%Y-%m-%d}-{cpu}"
    number = 1
    while (folder / f"{stem}{'' if number == 1 else f'-{number}'}.json").exists():
        number += 1
    return folder / f"{stem}{'' if number == 1 else f'-{number}'}"


def as_json(lines: list[Line], peers: dict[str, Peer], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything, for machines."""
    versions = settings["versions"]
    return {
        "settings": {name: value for name, value in settings.items() if name != "versions"},
        "peers": {key: {"version": versions[key], "settings": p.settings()} for key, p in peers.items()},
        "rows": [
            {
                **{k: v for k, v in asdict(line.row).items() if k != "absent"},
                "options": line.row.options_of(bool(settings["quick"])),
                "ratio_to_broadcaster": line.ratio(YARDSTICK),
                "best_peer": line.best_peer(),
                "ratio_to_best_peer": line.ratio(line.best_peer() or ""),
                "ratio_to_upstream": line.ratio("upstream"),
                "verdict": line.verdict().strip("*"),
                "results": {key: {"median": cell.value, **asdict(cell)} for key, cell in line.cells.items()},
            }
            for line in lines
        ],
    }


def as_markdown(lines: list[Line], peers: dict[str, Peer], settings: dict[str, Any]) -> str:
    """The table and how it came about, for people."""
    host = settings["machine"]
    text = [
        f"# Benchmark of {settings['date']}",
        "",
        f"{host['cpu']}, {host['cores']} cores, Linux {host['kernel']}, Python {host['python']}; "
        f"server on core {settings['server_core']}, load generator on core {settings['load_core']}"
        f"{', polling' if settings['spin'] else ''}; load average at the start {host['load_average']:.2f}. "
        f"Medians of {settings['runs']} runs of {settings['seconds']} s after {settings['warmup']} s of "
        "warm-up, the peers taking turns; ± is half the range of the runs.",
        "",
    ]
    groups = list(dict.fromkeys(line.row.group for line in lines))
    for group in groups:
        members = [line for line in lines if line.row.group == group]
        text += _table(group, members, peers)
    text += ["## Servers", ""]
    text += [f"- {peer.title}: {settings['versions'][key]}; {peer.settings()}" for key, peer in peers.items()]
    text += ["", "## Settings of the rows", ""]
    for line in lines:
        options = line.row.options_of(bool(settings["quick"]))
        words = ", ".join(f"{key} {value}" for key, value in options.items())
        chosen = [f"{cell.window} ({peers[key].title})" for key, cell in line.cells.items() if cell.window]
        words += f", window {', '.join(chosen)}" if chosen else ""
        text.append(f"- `{line.row.key}`: scenario {line.row.scenario}, {words}")
    notes = _notes(lines, peers)
    if notes:
        text += ["", "## Notes", "", *notes]
    return "\n".join(text) + "\n"


def _table(group: str, lines: list[Line], peers: dict[str, Peer]) -> list[str]:
    shown = [key for key in peers if any(not line.cells[key].absent for line in lines)]
    head = [group, "unit", *(peers[key].title for key in shown)]
    compare = [key for key in shown if key != DSFAST]
    if YARDSTICK in compare:
        head.append(f"{TIMES} C")
    if [key for key in compare if key != YARDSTICK]:
        head.append(f"{TIMES} best peer")
    head += ["core busy", "at least", "aim", "verdict"]
    text = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line in lines:
        cells = [line.row.title, line.row.unit, *(_cell(line, key) for key in shown)]
        if YARDSTICK in compare:
            cells.append(_times(line.ratio(YARDSTICK)))
        if [key for key in compare if key != YARDSTICK]:
            cells.append(_times(line.ratio(line.best_peer() or "")))
        target = line.row.target
        cells += [line.core_busy, *_wanted(target), line.verdict()]
        text.append("| " + " | ".join(cells) + " |")
    return [*text, ""]


def _cell(line: Line, key: str) -> str:
    cell = line.cells[key]
    if cell.absent:
        return ABSENT
    if cell.errors:
        return "error"
    if line.row.kind == "latency":
        q = cell.quantiles()
        return f"{q['p50']:.3g} / {q['p99']:.3g} / {q['p99.9']:.3g}"
    value = cell.value
    assert value is not None
    mark = "†" if cell.generator_bound else ""
    return f"{number(value)}{mark} ±{cell.spread * 50:.0f} %"


def _wanted(target: Target | None) -> tuple[str, str]:
    if target is None:
        return "", ""
    if target.of:
        return f"{target.at_least:g} {TIMES} {target.of}", f"{target.aim:g} {TIMES}" if target.aim else ""
    return number(target.at_least), number(target.aim) if target.aim else ""


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def number(value: float) -> str:
    """Three significant digits with k or M."""
    for limit, suffix in ((1e6, " M"), (1e3, " k")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f}{suffix}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _notes(lines: list[Line], peers: dict[str, Peer]) -> list[str]:
    notes = []
    if any(cell.generator_bound for line in lines for cell in line.cells.values()):
        notes.append(
            "- † the load generator was at its limit, not the server, which may be faster than this."
        )
    notes.append(
        "- core busy: share of its core that dsfast used. Well below 100 % the limit was not the core but "
        "the row's window or the storage; the rows of the group `core` have windows chosen to fill it."
    )
    disturbed = [
        f"`{line.row.key}`"
        for line in lines
        # A storage has a thread of its own, which shares the core.
        if not line.row.storage and DSFAST in line.cells and line.cells[DSFAST].disturbed
    ]
    if disturbed:
        notes.append(
            f"- dsfast waited for its core for more than {DISTURBED:.0%} of the time, as the machine had "
            f"other work: {', '.join(disturbed)}"
        )
    reasons: dict[str, list[str]] = {}
    for line in lines:
        for key, cell in line.cells.items():
            if cell.absent:
                reasons.setdefault(f"{peers[key].title}: {cell.absent}", []).append(f"`{line.row.key}`")
    notes += [f"- {ABSENT} {reason} ({', '.join(keys)})" for reason, keys in reasons.items()]
    for line in lines:
        for key, cell in line.cells.items():
            notes += [
                f"- error: `{line.row.key}`, {peers[key].title}: {_short(error)}" for error in cell.errors
            ]
    return notes


def _short(error: str) -> str:
    """First and last line: a server that does not start prints a trace before it says why."""
    lines = error.strip().splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}"
