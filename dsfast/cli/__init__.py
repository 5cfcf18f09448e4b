"""The command ``dsfast``. Each command is one module, loaded when it is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from dsfast import __version__

__all__ = ["cli", "main"]

# Name of the command: module and attribute of the click command.
_COMMANDS = {
    "serve": "dsfast.cli.serve:serve",
    "daemon": "dsfast.cli.daemon:daemon",
    "init": "dsfast.cli.init:init",
    "check": "dsfast.cli.check:check",
    "config": "dsfast.cli.config:config",
    "valve": "dsfast.cli.valve:valve",
    "hash": "dsfast.cli.hash:hash_",
    "service": "dsfast.cli.service:service",
    "nginx": "dsfast.cli.nginx:nginx",
    "info": "dsfast.cli.info:info",
    "plugins": "dsfast.cli.plugins:plugins",
    "completion": "dsfast.cli.completion:completion",
    "sqlite": "dsfast.cli.sqlite:sqlite",
    "export": "dsfast.cli.transfer:export",
    "import": "dsfast.cli.transfer:import_",
    "migrate": "dsfast.cli.migrate:migrate",
}

_ALIASES = {"start": "serve"}
"""Other names of commands, which the help does not list."""

INTERRUPTED = 130
"""Exit code after an interrupt from the keyboard, as shells expect it: 128 + SIGINT."""


class _Commands(click.Group):
    """Loads a command's module when it is asked for, so that `serve` does not wait for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = _ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="dsfast", message="%(prog)s %(version)s")
def cli() -> None:
    """A realtime data server that speaks deepstream.io's protocol."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process.

    Exit codes: 0 success, 1 failure, 2 wrong options, 130 interrupted. A user's mistake is one line on
    standard error.
    """
    try:
        result = cli.main(arguments, prog_name="dsfast", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        sys.exit(2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "dsfast"
        _fail(f"{error.format_message()} (see {command} --help)", 2)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    # In this mode click returns the exit code of its own early exits (--help, --version) and of ctx.exit().
    sys.exit(result if isinstance(result, int) else 0)


def _fail(text: str, code: int) -> NoReturn:
    click.echo(f"dsfast: {text}", err=True)
    sys.exit(code)
