"""``dsfast serve``: run the server until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import click

from dsfast.plugin import LogLevel

__all__ = ["serve"]

GRACE = 2.0
"""Seconds beyond shutdownTimeout before the process is ended by force."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=6020,
    show_default=True,
    help="Port to listen on; 0 takes any free one.",
)
@click.option(
    "--log-level",
    type=click.Choice([level.name.lower() for level in LogLevel], case_sensitive=False),
    default="info",
    show_default=True,
    help="Lowest level that is logged.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    default="./data",
    show_default=True,
    help="Directory for what the server keeps on disk.",
)
@click.option("--in-memory", is_flag=True, help="Store nothing; records live as long as the server.")
def serve(host: str, port: int, log_level: str, data_dir: str, in_memory: bool) -> int:
    """Run the server.

    SIGINT and SIGTERM let the clients go, save everything and end with code 0; a second signal ends at once.
    """
    if not host:
        raise click.BadParameter("must not be empty", param_hint="'--host'")
    if not data_dir:
        raise click.BadParameter("must not be empty", param_hint="'--data-dir'")
    config: dict[str, Any] = {
        "logLevel": log_level,
        "dataDir": data_dir,
        "httpServer": {"options": {"host": host, "port": port}},
    }
    if in_memory:
        config["storage"] = {"type": "none"}
    import uvloop  # noqa: PLC0415 - not needed for --help

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


async def _serve(config: dict[str, Any]) -> int:
    """Exit code of a whole run."""
    from dsfast.config import ConfigError  # noqa: PLC0415 - not needed for --help
    from dsfast.server import Server, StartError  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    signals_seen = 0
    exit_code = 0

    def on_signal(number: int) -> None:
        nonlocal signals_seen
        signals_seen += 1
        if signals_seen > 1:
            _end_now(128 + number)
        _start_watchdog(server.get_config().shutdown_timeout / 1000 + GRACE)
        ending.set()

    def on_fatal() -> None:
        nonlocal exit_code
        exit_code = 1
        # During the start, the start itself fails or finishes first.
        if server.is_running():
            _start_watchdog(server.get_config().shutdown_timeout / 1000 + GRACE)
            ending.set()

    try:
        server = Server(config)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    server.on("FATAL_EXCEPTION", on_fatal)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)

    starting = asyncio.create_task(server.start())
    waiting = asyncio.create_task(ending.wait())
    await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done() and not server.is_running():
        await server.stop()
    try:
        await starting
    except StartError as error:
        waiting.cancel()
        if signals_seen:
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
    if not exit_code:
        await waiting
    waiting.cancel()
    await server.stop()
    return exit_code


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
