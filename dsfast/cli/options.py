"""Options that several commands share, and the configuration that they lead to."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dsfast.plugin import LogLevel

if TYPE_CHECKING:
    from dsfast.config import Config

__all__ = ["config_option", "end_with", "lib_dir_option", "load_config", "server_options"]

Command = Callable[..., Any]

LOCAL_HOST = "127.0.0.1"
"""Where a server listens that nobody has configured: open to everybody, so for this machine only."""


class _Port(click.IntRange):
    def __init__(self) -> None:
        super().__init__(0, 65_535)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            int(value)
        except ValueError:
            self.fail("Provided --port must be an integer", param, ctx)
        return super().convert(value, param, ctx)


class _LogLevel(click.Choice[str]):
    def __init__(self) -> None:
        super().__init__([level.name.lower() for level in LogLevel], case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value).lower() not in self.choices:
            names = "|".join(self.choices)
            self.fail(f"Log level must be one of the following ({names})", param, ctx)
        return super().convert(value, param, ctx)


class _Boolean(click.Choice[str]):
    def __init__(self) -> None:
        super().__init__(["true", "false"], case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if str(value).lower() not in self.choices:
            self.fail("Invalid argument for --colors, please provide true or false", param, ctx)
        return super().convert(value, param, ctx)


config_option = click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file. Without it DEEPSTREAM_CONFIG_DIRECTORY and the usual places are tried, "
    "conf/config.yml among them.",
)

lib_dir_option = click.option(
    "-l",
    "--lib-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of plugins that the configuration names.",
)

_SERVER_OPTIONS = (
    config_option,
    lib_dir_option,
    click.option("--host", help=f"Address to listen on; {LOCAL_HOST} if nothing is configured."),
    click.option("--port", type=_Port(), help="Port to listen on; 0 takes any free one."),
    click.option("--server-name", help="Name of this server, unique among its peers."),
    click.option("--log-level", type=_LogLevel(), help="Lowest level that is logged."),
    click.option(
        "--data-dir", type=click.Path(file_okay=False), help="What the server keeps on disk is here."
    ),
    click.option("--in-memory", is_flag=True, help="Store nothing; records live as long as the server."),
    click.option("--disable-auth", is_flag=True, help="Let everybody in, whatever the configuration says."),
    click.option("--disable-permissions", is_flag=True, help="Allow everything to everybody."),
)

_TERMINAL_OPTIONS = (
    click.option(
        "--colors",
        type=_Boolean(),
        is_flag=False,
        flag_value="true",
        help="Coloured log lines on a terminal.",
    ),
    click.option("--inspect", is_flag=False, flag_value="", hidden=True),
)


_FLAGS = (
    "lib_dir",
    "host",
    "port",
    "server_name",
    "log_level",
    "data_dir",
    "in_memory",
    "disable_auth",
    "disable_permissions",
    "colors",
    "inspect",
)
"""Parameters of the options above that become a part of the configuration."""


def server_options(*, terminal: bool) -> Callable[[Command], Command]:
    """Add the options of a server; the command gets ``config_file`` and ``flags``.

    ``flags`` are the parts of a configuration that were given on the command line, and nothing else.
    ``terminal`` adds those that only make sense for a server that somebody is watching.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_flags(config_file: Path | None, **parameters: Any) -> Any:
            given = {name: parameters.pop(name, None) for name in _FLAGS}
            return command(config_file=config_file, flags=_flags(given), **parameters)

        for option in reversed(_SERVER_OPTIONS + (_TERMINAL_OPTIONS if terminal else ())):
            with_flags = option(with_flags)
        return with_flags

    return decorate


def _flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a configuration for the options that were given."""
    for name in ("host", "data_dir", "server_name"):
        if given[name] == "":
            raise click.BadParameter("must not be empty", param_hint=f"'--{name.replace('_', '-')}'")
    if given["inspect"] is not None:
        click.echo("dsfast: --inspect is for the debugger of Node.js and has no effect", err=True)
    flags: dict[str, Any] = {}
    listening = {key: given[key] for key in ("host", "port") if given[key] is not None}
    if listening:
        flags["httpServer"] = {"options": listening}
    if given["server_name"] is not None:
        flags["serverName"] = given["server_name"]
    if given["log_level"] is not None:
        # A logger may have a level of its own, which would win over the common one.
        flags["logLevel"] = given["log_level"]
        flags["logger"] = {"options": {"logLevel": given["log_level"]}}
    if given["lib_dir"] is not None:
        flags["libDir"] = os.path.abspath(given["lib_dir"])
    if given["data_dir"] is not None:
        flags["dataDir"] = os.path.abspath(given["data_dir"])
    if given["in_memory"]:
        flags["storage"] = {"type": "none"}
    if given["disable_auth"]:
        flags["auth"] = [{"type": "none"}]
    if given["disable_permissions"]:
        flags["permission"] = {"type": "none"}
    if given["colors"] is not None:
        flags.setdefault("logger", {}).setdefault("options", {})["colors"] = given["colors"] == "true"
    return flags


def load_config(config_file: Path | None, flags: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a server that is started so; ends the command if there is anything wrong with it.

    Without a file, and unless a host is given, the server is for this machine only.
    """
    from dsfast.config import ConfigError, load_from, set_value  # noqa: PLC0415 - not needed for --help
    from dsfast.config.schema import DefaultEndpoints, MqttSection  # noqa: PLC0415 - as above

    try:
        config = load_from(config_file, flags=flags)
    except ConfigError as error:
        end_with(str(error))
    if config.source.file is None:
        if "/httpServer/options/host" not in config.source.places:
            set_value(config, "httpServer.options.host", LOCAL_HOST)
        if isinstance(config.connection_endpoints, DefaultEndpoints):
            for section in config.connection_endpoints:
                if isinstance(section, MqttSection):
                    section.options.host = config.http.host
    return config


def end_with(text: str, code: int = 1) -> NoReturn:
    """End the command with a text on standard error, as it is."""
    click.echo(text, err=True)
    raise click.exceptions.Exit(code)
