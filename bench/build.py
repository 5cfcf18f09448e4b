"""Compiles the load generator and the broadcaster."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
LOAD = BUILD / "load"
BROADCASTER = BUILD / "broadcaster"


class BenchError(Exception):
    """The bench itself cannot go on; its text tells the user why."""


def build() -> None:
    """Compile what is out of date.

    Raises:
        BenchError: without a C compiler and make, or when compiling fails.
    """
    for tool in ("make", "cc"):
        if shutil.which(tool) is None:
            raise BenchError(f"{tool} is missing; on Debian: apt-get install make gcc")
    done = subprocess.run(["make", "-s", "-C", str(HERE)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"compiling the load generator failed:\n{done.stderr}")
