"""``dsfast check``: everything that can be known to be wrong before the server is started."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsfast.cli.options import config_option, lib_dir_option
from dsfast.plugin import Logger, LogLevel, Plugin

if TYPE_CHECKING:
    from dsfast.config import Config

__all__ = ["check"]


@click.command()
@config_option
@lib_dir_option
@click.option("--strict", is_flag=True, help="End with code 1 for warnings too.")
def check(config_file: Path | None, lib_dir: Path | None, strict: bool) -> int:
    """Look for mistakes before a start.

    Looked at are the configuration and everything it names: every option, permission rules, users, plugins,
    certificates and the data directory. Prints a line for each finding and ends with code 1 if there is an
    error. Nothing is started, and nobody is connected to.
    """
    from dsfast.config import ConfigError, find_file, load_from  # noqa: PLC0415 - not needed for --help

    findings = _Findings()
    flags = {} if lib_dir is None else {"libDir": os.path.abspath(lib_dir)}
    config: Config | None = None
    file = config_file
    try:
        file = file or find_file()
        config = load_from(file, flags=flags)
    except ConfigError as error:
        for problem in error.problems:
            findings.error(str(problem).strip())
    if config is not None:
        findings.notes(config)
        asyncio.run(_check_parts(config, findings))
        _check_data_directory(config, findings)
    _check_certificates(file, config, findings)
    findings.print(str(file or "no configuration file, the defaults"))
    return findings.exit_code(strict)


class _Findings:
    """What was found, each finding once."""

    def __init__(self) -> None:
        self._errors: dict[str, None] = {}
        self._warnings: dict[str, None] = {}

    def error(self, text: str) -> None:
        self._errors[_one_line(text)] = None

    def warning(self, text: str) -> None:
        self._warnings[_one_line(text)] = None

    def notes(self, config: Config) -> None:
        """What the loader accepted and would tell at the start."""
        for problem in config.warnings:
            self.warning(str(problem).strip())
        for note in config.source.notes:
            if note.event != "CONFIG_TRANSFORM" or "not set" in note.text:
                self.warning(note.text)

    def print(self, subject: str) -> None:
        for text in self._errors:
            click.echo(f"error: {text}")
        for text in self._warnings:
            click.echo(f"warning: {text}")
        counts = f"{_count(self._errors, 'error')}, {_count(self._warnings, 'warning')}"
        click.echo(f"{subject}: {counts if self._errors or self._warnings else 'ok'}")

    def exit_code(self, strict: bool) -> int:
        return 1 if self._errors or (strict and self._warnings) else 0


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _count(findings: Mapping[str, None], noun: str) -> str:
    return f"{len(findings)} {noun}{'' if len(findings) == 1 else 's'}"


class _Collector(Logger):
    """Makes findings of what the parts log."""

    findings: _Findings

    def should_log(self, level: int) -> bool:
        return level >= LogLevel.WARN

    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        (self.findings.error if level >= LogLevel.ERROR else self.findings.warning)(message)


async def _check_parts(config: Config, findings: _Findings) -> None:
    """Make every part as a start does, and have those that read files read them."""
    from dsfast.services import Services  # noqa: PLC0415 - not needed for --help
    from dsfast.services.factory import build  # noqa: PLC0415

    services = Services()
    services.logger = collector = _Collector({}, services, config)
    collector.findings = findings
    prepared: list[Plugin] = []
    for pointer, kind, section in _sections(config):
        try:
            part = build(kind, section, services, config)
            if kind in ("storage", "permission"):
                setattr(services, kind, part)  # authentications look at these
            if kind in ("authentication", "permission") and type(part).__module__.startswith("dsfast."):
                prepared.append(part)
                await _prepare(part, config)
        except Exception as error:  # a plugin's code may raise anything
            text = str(error) or type(error).__name__
            place = config.source.place(pointer)
            if place and ", line " not in text:  # which may be one in another file
                text = f"{text} ({place})"
            findings.error(f"{pointer}: {text}")
    # Not before: they share the threads that check passwords.
    await asyncio.gather(*(part.close() for part in prepared), return_exceptions=True)


async def _prepare(part: Plugin, config: Config) -> None:
    """Get a built-in part ready, unless it would ask another server for something."""
    part.init()
    if getattr(part.options, "jwks_url", None) is None:
        async with asyncio.timeout(config.dependency_initialization_timeout / 1000):
            await part.when_ready()


def _sections(config: Config) -> Iterator[tuple[str, str, Any]]:
    """JSON pointer, kind and section of everything that is made at a start and that can be done already."""
    from dsfast.config.pending import is_pending  # noqa: PLC0415 - not needed for --help

    yield "/logger", "logger", config.logger
    for index, monitoring in enumerate(config.monitoring):
        yield f"/monitoring/{index}", "monitoring", monitoring
    yield "/storage", "storage", config.storage
    yield "/cache", "cache", config.cache
    yield "/permission", "permission", config.permission
    for index, entry in enumerate(config.auth):
        yield f"/auth/{index}", "authentication", entry
    for index, endpoint in enumerate(config.connection_endpoints):
        if not is_pending(f"/connectionEndpoints/*/{endpoint.get('type')}"):
            yield f"/connectionEndpoints/{index}", "connection_endpoint", endpoint
    for name, plugin in config.plugins.items():
        if not is_pending(f"/plugins/*/{plugin.get('type')}"):
            yield f"/plugins/{name}", "plugin", plugin


def _check_data_directory(config: Config, findings: _Findings) -> None:
    from dsfast.config.schema import SqliteSection  # noqa: PLC0415 - not needed for --help

    if not isinstance(config.storage, SqliteSection):
        return
    directory = Path(config.sqlite_path).absolute().parent
    present = next(path for path in (directory, *directory.parents) if path.exists())
    if not present.is_dir():
        findings.error(f"/dataDir: {present} is no directory")
    elif not os.access(present, os.W_OK | os.X_OK):
        findings.error(f"/dataDir: {directory} cannot be written to")


def _check_certificates(file: Path | None, config: Config | None, findings: _Findings) -> None:
    from dsfast.cli.tls_check import TlsError, certificates_in, check_certificate  # noqa: PLC0415
    from dsfast.config import ConfigError  # noqa: PLC0415 - not needed for --help
    from dsfast.config.files import Source, read_file  # noqa: PLC0415

    try:
        source = config.source if config is not None else Source() if file is None else read_file(file)
    except ConfigError:
        return
    for pointer, given in certificates_in(source.values):
        try:
            if warning := check_certificate(given, source.directory):
                findings.warning(f"{pointer}: {warning}")
        except TlsError as problem:
            findings.error(f"{pointer}: {problem}")
