"""The command ``dsfast`` as processes, for the tests of the command line."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "dsfast"]
READY = re.compile(r"INFO \| dsfast \S+ is ready at ws://127\.0\.0\.1:(\d+)/deepstream \((.*)\)")
LIMIT = 30
"""Seconds after which a test gives up; a passing test does not wait for it."""


def run(*arguments, cwd=ROOT, given=None, command=COMMAND, **environment):
    """A finished command; ``environment`` holds variables that are set beside the usual ones."""
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=variables(environment),
        input=given,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def variables(changes):
    """The environment of a command: it finds the package wherever it runs, and no options by accident."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("DSFAST_")}
    return {**usual, "PYTHONPATH": str(ROOT), **changes}


class Process:
    """A process whose output is read line by line; killed at the end of the test whatever happens."""

    def __init__(self, command, cwd=ROOT, **environment):
        self.process = subprocess.Popen(
            [*map(str, command)],
            cwd=cwd,
            env=variables(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # A process that hangs must fail the test, not hang it: killing it ends its output.
        self.timer = threading.Timer(LIMIT, self.process.kill)
        self.timer.start()
        self.lines = []

    def wait_for(self, pattern):
        """The match in the first line of the standard output that has one."""
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no line {pattern!r} in {self.lines}; {self.process.stderr.read()}")

    def ready(self):
        """Wait until a server is ready, and remember its port and what is active."""
        found = self.wait_for(READY)
        self.port, self.active = int(found[1]), found[2]
        return self

    def signal(self, number):
        self.process.send_signal(number)

    def end(self, number=None):
        """Exit code, and what was written to standard error; after a signal, if one is given."""
        if number is not None:
            self.signal(number)
        _, errors = self.process.communicate()
        return self.process.returncode, errors

    def close(self):
        self.timer.cancel()
        # A daemon's server goes with it: the kernel sees to that.
        self.signal(signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
