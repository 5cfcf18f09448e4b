"""Writes ``docs/commands.md`` from the commands; ``python -m dsfast.cli.document`` prints it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from dsfast.cli import cli
from dsfast.cli.serve import serve

__all__ = ["render"]

INTRODUCTION = """\
# Commands

<!-- Generated from dsfast/cli by `make docs`; changes belong there. -->

`dsfast` alone, and `-h` or `--help` with any command, shows help. `python -m dsfast` is the same program.
[operations.md](operations.md) says how to run a server, [configuration.md](configuration.md) what can be
configured.

Exit codes: 0 for success, 1 for a failure or an error that was found, 2 for options that make no sense, 130
and 143 after an interrupt. What is wrong is told on standard error, in one line or a list.

What is given on the command line wins over environment variables (`DSFAST_...`), those over the configuration
file, and that over the defaults.
"""


def render() -> str:
    """The whole document."""
    return "\n".join([INTRODUCTION, *_group(cli, "dsfast")]).rstrip() + "\n"


def _group(group: click.Group, path: str) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _group(command, f"{path} {name}")
        elif command is not None:
            yield from _command(command, f"{path} {name}")


def _command(command: click.Command, path: str) -> Iterator[str]:
    arguments = [_argument(entry) for entry in command.params if isinstance(entry, click.Argument)]
    options = _options(command)
    yield f"## {' '.join([path, *arguments])}"
    yield ""
    yield from _paragraphs(command)
    served = _options(serve)
    if command is not serve and {"host", "port", "data_dir"} <= options.keys():
        options = {name: option for name, option in options.items() if name not in served}
        yield "Takes the options of `dsfast serve`" + (", and these:" if options else ".")
        yield ""
    if options:
        yield "| Option | Meaning |"
        yield "|---|---|"
        for option in options.values():
            yield f"| {_spelling(option)} | {_meaning(option)} |"
        yield ""


def _options(command: click.Command) -> dict[str, click.Option]:
    found = (entry for entry in command.params if isinstance(entry, click.Option) and not entry.hidden)
    return {option.name or "": option for option in found}


def _paragraphs(command: click.Command) -> Iterator[str]:
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            yield "\n".join(["```", *paragraph.splitlines()[1:], "```"])
        else:
            yield paragraph.replace("<", "\\<")
        yield ""


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required else f"[{name}]"


def _spelling(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} {', '.join(f'`{choice}`' for choice in option.type.choices)}"
    return f"{names} {option.type.name.partition(' ')[0]}"


def _meaning(option: click.Option) -> str:
    text = (option.help or "").replace("|", "\\|").replace("<", "\\<")
    return f"{text} Default: `{option.default}`." if option.show_default else text


if __name__ == "__main__":
    print(render(), end="")
