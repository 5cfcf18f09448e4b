"""``dsfast serve``: run the server until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dsfast.cli.options import load_config, server_options
from dsfast.plugin import LogLevel

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.server import Server

__all__ = ["serve"]

GRACE = 2.0
"""Seconds beyond shutdownTimeout before the process is ended by force."""


@click.command()
@server_options(terminal=True)
def serve(config_file: Path | None, flags: dict[str, Any]) -> int:
    """Run the server.

    What is given here wins over environment variables, and those over the configuration file.

    SIGINT and SIGTERM let the clients go, save everything and end with code 0; a second signal ends at once.
    SIGHUP reads the permission file and certificates again, SIGUSR1 switches debug lines on and off.
    """
    config = load_config(config_file, flags)
    import uvloop  # noqa: PLC0415 - not needed for --help

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


async def _serve(config: Config) -> int:
    """Exit code of a whole run."""
    from dsfast.server import Server, StartError  # noqa: PLC0415 - not needed for --help

    server = Server(config)
    run = _Run(server)
    starting = asyncio.create_task(server.start())
    ending = asyncio.create_task(run.ending.wait())
    await asyncio.wait([starting, ending], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done() and not server.is_running():
        await server.stop()
    try:
        await starting
    except StartError as error:
        ending.cancel()
        if run.signals_seen:
            return 0
        if not error.logged or not server.get_services().logger.should_log(LogLevel.FATAL):
            click.echo(f"dsfast: {error}", err=True)
        return 1
    # What start-up made stays for good: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    # Connections are freed by their reference counts; looking for circles among 10 000 of them over and over
    # would slow down a login storm.
    gc.set_threshold(50_000, 20, 100)
    await ending
    await server.stop()
    return run.exit_code


class _Run:
    """What signals and fatal errors do to a server."""

    def __init__(self, server: Server) -> None:
        self.ending = asyncio.Event()
        self.exit_code = 0
        self.signals_seen = 0
        self._server = server
        self._reloads: set[asyncio.Task[None]] = set()
        self._has_terminal = _on_terminal()
        server.on("FATAL_EXCEPTION", self._on_fatal)
        server.on("started", self._on_started)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_end, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hang_up)
        loop.add_signal_handler(signal.SIGUSR1, self._on_debug)

    def _on_end(self, number: int) -> None:
        self.signals_seen += 1
        if self.signals_seen > 1:
            _end_now(128 + number)
        self._end()

    def _on_fatal(self) -> None:
        self.exit_code = 1
        # During the start, the start itself fails or finishes first.
        if self._server.is_running():
            self._end()

    def _on_started(self) -> None:
        if self.exit_code:
            self._end()

    def _on_hang_up(self) -> None:
        if self._has_terminal and not _on_terminal():
            # The terminal was closed; nobody has asked to read anything again.
            self._on_end(signal.SIGHUP)
        elif self._server.is_running():
            # Also while one is running: it may have read the file before the change this signal is about.
            task = asyncio.create_task(self._server.reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)

    def _on_debug(self) -> None:
        if self._server.is_running():
            logger, config = self._server.get_services().logger, self._server.get_config()
            own = config.logger.options.get("logLevel")
            configured = config.log_level if own is None else own
            logger.set_log_level(configured if logger.should_log(LogLevel.DEBUG) else LogLevel.DEBUG)

    def _end(self) -> None:
        _start_watchdog(self._server.get_config().shutdown_timeout / 1000 + GRACE)
        self.ending.set()


def _on_terminal() -> bool:
    """Whether standard input is a terminal that is still there."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True


def _start_watchdog(seconds: float) -> None:
    """End the process if it has not ended by then.

    The server keeps its own time limits; this is for a plugin that blocks the event loop, or leaves a thread
    that the interpreter would wait for.
    """

    def give_up() -> None:
        sys.stderr.write(f"dsfast: still not stopped after {seconds:g} s, ending\n")
        _end_now(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()


def _end_now(code: int) -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
