"""``dsfast valve``: check, test and explain permission rules."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dsfast.services.permission.rules import RuleFileError
    from dsfast.valve import Decision, Rules

__all__ = ["valve"]

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def valve() -> None:
    """Check, test and explain permission rules."""


@valve.command()
@click.argument("file", type=_FILE)
def check(file: Path) -> None:
    """Check the permission rules in FILE.

    Names the first mistake with its line and ends with code 1 if there is one.
    """
    rules = _read_rules(file)
    for warning in rules.warnings:
        click.echo(f"warning: {warning}")
    click.echo(f"{file}: ok, {len(list(rules))} rules")


@valve.command()
@click.argument("cases", type=_FILE, nargs=-1, required=True)
@click.option("--rules", "rules_file", type=_FILE, help="Test these rules instead of those CASES names.")
@click.option("-v", "--verbose", is_flag=True, help="Give reasons for the right decisions too.")
@click.pass_context
def test(context: click.Context, cases: Sequence[Path], rules_file: Path | None, verbose: bool) -> None:
    """Compare what the rules decide with the cases in CASES.

    Prints the decisions that are not the expected ones, with the reasons, and ends with code 1 if there are
    any.
    """
    from dsfast.valve import read_cases  # noqa: PLC0415 - not needed for --help

    rules = None if rules_file is None else _read_rules(rules_file)
    count = failed = 0
    for file in cases:
        with _mistakes_in_one_line():
            read = read_cases(file, rules)
        for case in read:
            count += 1
            try:
                case.check()
            except AssertionError as error:
                failed += 1
                click.echo(f"FAILED {case.file}:{case.line} {case}\n  {error}")
            else:
                if verbose:
                    click.echo(f"ok {case.file}:{case.line} {case}\n  {case.decide()}")
    click.echo(f"{count} cases, {failed} failed")
    context.exit(1 if failed else 0)


@valve.command()
@click.argument("file", type=_FILE)
@click.argument("action")
@click.argument("name", required=False)
@click.option("--user", metavar="ID", help="Who acts; without it somebody who has an open login.")
@click.option("--user-data", metavar="JSON", help="The serverData of the user.")
@click.option("--data", metavar="JSON", help="The payload: of a write the new data.")
@click.option("--path", help="The path of a patch; without --data it is erased.")
@click.option("--old-data", metavar="JSON", help="The record as it is; without it the record does not exist.")
@click.option("--record", "records", metavar="NAME=JSON", multiple=True, help="A record that exists.")
@click.option("--now", type=float, metavar="MS", help="The time, in milliseconds since 1970.")
@click.option(
    "--max-rule-iterations",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="How often the rule may be evaluated while records are loaded for it.",
)
def explain(  # noqa: PLR0917 - click passes names
    file: Path,
    action: str,
    name: str | None,
    user: str | None,
    user_data: str | None,
    records: Sequence[str],
    max_rule_iterations: int,
    now: float | None,
    path: str | None,
    **payloads: str | None,
) -> None:
    """Tell which rule in FILE decides about an action, what it sees and what it says.

    ACTION is a section and a rule type, for example record.write or event.publish, or an action of the
    protocol, for example record.patch or presence.queryAll. NAME is the record, event, call or user.

    \b
        dsfast valve explain permissions.yml record.write doc/1 --user bob --data '{"bid": 5}'
    """
    rules = _read_rules(file, max_rule_iterations)
    arguments: dict[str, Any] = {
        key: _json(text, f"--{key.replace('_', '-')}") for key, text in payloads.items() if text is not None
    }
    known = {}
    for text in records:
        record, equals, data = text.partition("=")
        if not equals:
            raise click.UsageError("--record needs a name, an equals sign and the data of the record as JSON")
        known[record] = _json(data, f"the data of --record {record}")
    who: Any = user
    if user_data is not None:
        who = {"id": user or "open", "data": _json(user_data, "--user-data")}
    with _mistakes_in_one_line():
        decision = rules.check(
            user=who, action=action, name=name, records=known, path=path, now=now, **arguments
        )
    _print(decision)


def _print(decision: Decision) -> None:
    click.echo(str(decision))
    if decision.runs > 1:
        click.echo(f"  evaluated {decision.runs} times, until everything was loaded")
    if decision.less_specific:
        click.echo("  less specific paths that match too:")
        for path, rule in decision.less_specific:
            click.echo(f'    "{path}": {rule}')


def _read_rules(file: Path, max_rule_iterations: int = 3) -> Rules:
    from dsfast.valve import Rules  # noqa: PLC0415 - not needed for --help

    with _mistakes_in_one_line():
        return Rules.from_file(file, max_rule_iterations)


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise click.UsageError(f"{what} is not JSON: {text} (a text needs its quotes)") from None


@contextlib.contextmanager
def _mistakes_in_one_line() -> Iterator[None]:
    """What a user can cause becomes one line on standard error and exit code 1."""
    from dsfast.config import ConfigError  # noqa: PLC0415 - not needed for --help
    from dsfast.services.permission.rules import RuleFileError  # noqa: PLC0415

    try:
        yield
    except RuleFileError as error:
        raise click.ClickException(_described(error)) from None
    except (ConfigError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def _described(error: RuleFileError) -> str:
    """The mistake with its place in the file and, for a rule, which one it is."""
    rule = f' ({error.section} "{error.path}" {error.rule_type})' if error.rule_type else ""
    return ": ".join(part for part in (error.place, str(error)) if part) + rule
