"""``dsfast daemon``: the server as a child that is started again when it ends (configuration.md 5)."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from dsfast.cli.options import end_with, load_config, server_options
from dsfast.cli.serve import GRACE

__all__ = ["daemon"]

DELAY = 1.0
"""Seconds between the end of a server and the start of the next one."""
QUICK = 5.0
"""A server that has lived for fewer seconds counts as a failed start."""
MAX_QUICK = 10
"""Failed starts in a row after which the daemon gives up."""

PR_SET_PDEATHSIG = 1
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it

_ENDING = (signal.SIGTERM, signal.SIGINT)
_PASSED_ON = (signal.SIGHUP, signal.SIGUSR1)


@click.command()
@server_options(terminal=False)
@click.pass_context
def daemon(ctx: click.Context, config_file: Path | None, flags: dict[str, Any]) -> int:
    """Run the server and start it again whenever it ends.

    The options are those of `dsfast serve`, and so are the signals: they are passed on. The server is started
    again a second after its end, and given up when it has ended within 5 seconds more than 10 times in a row.
    """
    # A mistake in the configuration is told once and not by every start.
    config = load_config(config_file, flags)
    command = [sys.executable, "-m", "dsfast", "serve", *_arguments(ctx)]
    return _Supervisor(command, config.shutdown_timeout / 1000 + 2 * GRACE).run()


def _arguments(ctx: click.Context) -> list[str]:
    """The options of this command as they are written for `serve`."""
    arguments: list[str] = []
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "")
        if value is True:
            arguments.append(parameter.opts[-1])
        elif value is not None and value is not False:
            arguments.append(f"{parameter.opts[-1]}={value}")
    return arguments


def _end_with_parent() -> None:
    """In the child: the kernel sends SIGTERM should this process be killed, so that nobody keeps the port."""
    if _PRCTL is not None:
        _PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)


class _Supervisor:
    """Keeps one child running; ends it ``patience`` seconds after it should have ended by itself."""

    def __init__(self, command: Sequence[str], patience: float) -> None:
        self._command = command
        self._patience = patience
        self._ending = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """The exit code of the child, once this process was told to end."""
        for number in _ENDING:
            signal.signal(number, self._on_end)
        for number in _PASSED_ON:
            signal.signal(number, self._on_passed_on)
        signal.signal(signal.SIGALRM, self._on_patience_lost)
        quick = 0
        while not self._ending:
            started = time.monotonic()
            code = self._run_child()
            if self._ending:
                return code
            quick = quick + 1 if time.monotonic() - started < QUICK else 0
            if quick > MAX_QUICK:
                end_with("Too many restarts within the last 5 seconds. Please check the script.")
            click.echo(f"dsfast: the server has ended with code {code}, starting it again", err=True)
            time.sleep(DELAY)
        return 0

    def _run_child(self) -> int:
        # Of a process group of its own, so that Ctrl-C reaches it once, from here. The output is shared: what
        # the server writes needs no help on its way.
        self._child = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - there are no threads here
        )
        if self._ending:
            self._child.terminate()
        code = self._child.wait()
        return code if code >= 0 else 128 - code

    def _on_end(self, number: int, frame: FrameType | None) -> None:
        if not self._ending:
            signal.setitimer(signal.ITIMER_REAL, self._patience)
        self._ending = True
        self._pass_on(number)

    def _on_passed_on(self, number: int, frame: FrameType | None) -> None:
        self._pass_on(number)

    def _on_patience_lost(self, number: int, frame: FrameType | None) -> None:
        self._pass_on(signal.SIGKILL)

    def _pass_on(self, number: int) -> None:
        if self._child is not None:
            self._child.send_signal(number)
