"""The commands as a whole: help, the generated page, completion, and no traceback whatever is typed."""

import io
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dsfast.cli import cli, main
from dsfast.cli.document import render
from tests.commands import LIMIT, run

ROOT = Path(__file__).parent.parent


def commands(group=cli, path=()):
    """Every command with the words that lead to it."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())


def test_the_generated_page_is_up_to_date():
    assert (ROOT / "docs" / "commands.md").read_text() == render(), "run `make docs`"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_option_is_explained(path):
    command = COMMANDS[path]
    first = command.help.splitlines()[0]
    assert first.endswith(".")
    assert len(first) <= 80
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, option.name
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


@pytest.mark.parametrize("path", [(), *COMMANDS], ids=lambda path: " ".join(path) or "dsfast")
def test_help_is_fast_because_a_command_loads_only_its_own_module(path):
    code = (
        "import sys\nfrom dsfast.cli import main\n"
        "try:\n    main([*sys.argv[1:], '--help'])\nfinally:\n"
        "    heavy = {'dsfast.server', 'dsfast.config', 'uvloop', 'apsw', 'aiohttp', 'dsfast._core.router'}\n"
        "    print('LOADED', heavy & sys.modules.keys())"
    )
    done = run("-c", code, *path, command=[sys.executable])
    assert done.stdout.splitlines()[-1] == "LOADED set()"


WORDS = [
    "", "-", "--", "-c", "--config", "-x", "--nothing", "x", "-1", "--port", "--port=", "--port=x", "--host=",
    "--host=\1", "\udcff", "a\nb", "--log-level", "--log-level=loud", "--colors", "--colors=maybe",
    "--inspect",
    "--data-dir=/dev/null", "-c/dev/null", "-cnix.yml", "-c.", "--lib-dir=/nix", "--help", "--dry-run",
    "--server-name=", "-n../x", "-l", "-p", "--ssl", "--argon2", "--json", "--force", "/nix/x", "bash", "add",
    "remove", "--path=/nix/y", "-o/nix/z", "--ssl-cert=\1", "--strict", "%s", "💥",
]  # fmt: skip


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Nothing can be started, asked for or changed from here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dsfast.cli.serve._serve", no_server)
    monkeypatch.setattr("dsfast.cli.daemon._Supervisor.run", lambda self: 0)
    monkeypatch.setattr("dsfast.cli.service._run", lambda command: 0)
    for place in ("SYSTEMD_UNITS", "INIT_SCRIPTS"):
        monkeypatch.setattr(f"dsfast.cli.service.{place}", tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))


async def no_server(config):
    return 0


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_whatever_is_typed_is_answered_without_a_traceback(path, nowhere, capfd):
    chance = random.Random(" ".join(path))
    cases = [[word] for word in WORDS]
    cases += [chance.choices(WORDS, k=chance.randint(2, 5)) for _ in range(150)]
    for arguments in cases:
        with pytest.raises(SystemExit) as ended:
            main([*path, *arguments])
        out, err = capfd.readouterr()
        assert ended.value.code in (0, 1, 2), (arguments, out, err)
        assert "Traceback" not in err
        assert ended.value.code == 0 or err or out, arguments
        if ended.value.code == 2:
            assert err.startswith(("dsfast: ", "Usage: ")), (arguments, err)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_valid(shell, tmp_path):
    done = run("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    script = tmp_path / "script"
    script.write_text(done.stdout)
    subprocess.run([shell, "-n", script], check=True, timeout=LIMIT)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dsfast ser", {"serve", "service"}),
        ("dsfast serve --log-l", {"--log-level"}),
        ("dsfast serve --log-level e", {"error"}),
        ("dsfast service re", {"remove", "restart"}),
        ("dsfast config s", {"show", "schema"}),
    ],
)
def test_what_is_completed(words, expected):
    given = words.split()
    environment = {
        "_DSFAST_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(given) - 1),
    }
    done = run(**environment)
    found = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert found == expected


def test_bash_completes(tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    program = bin_directory / "dsfast"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m dsfast "$@"\n')
    program.chmod(0o755)
    script = run("completion", "bash").stdout
    code = (
        f"PATH={bin_directory}:$PATH\n{script}\n"
        "compopt() { :; }\nCOMP_WORDS=(dsfast comp)\nCOMP_CWORD=1\n_dsfast_completion dsfast\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == "completion\n"


def test_names_of_commands_appear_in_the_help():
    top = {path[0] for path in COMMANDS}
    listed = set(re.findall(r"^  ([a-z]+) ", run("--help").stdout, re.MULTILINE))
    assert listed == top
