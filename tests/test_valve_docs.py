"""The tutorial of docs/valve.md, carried out: files are written, commands run, their output compared."""

import re
import shlex
import sys
from pathlib import Path

from tests.commands import COMMAND, run

DOCUMENT = Path(__file__).parent.parent / "docs" / "valve.md"
STEP = re.compile(
    r"<!-- file: (?P<file>\S+) -->\n```\w+\n(?P<content>.*?)^```$"
    r"|<!-- edit: (?P<edited>\S+): (?P<old>.*?) -> (?P<new>.*?) -->"
    r"|(?P<undo><!-- undo -->)"
    r"|^```console\n(?P<session>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
COMMANDS = {"dsfast": COMMAND, "pytest": [sys.executable, "-m", "pytest"]}
BARE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins add lines of their own


def sessions(text):
    """Command and output of each command of a console block."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, output = re.match(r"((?:[^\n]*\\\n)*[^\n]*)\n(.*)", part, re.DOTALL).groups()
        yield shlex.split(command.replace("\\\n", " ")), output


def plain(output):
    return re.sub(r" in [0-9.]+s$", "", output, flags=re.MULTILINE)


def test_the_tutorial_works_as_written(tmp_path):
    commands = 0
    before = None
    for step in STEP.finditer(DOCUMENT.read_text()):
        if step["file"]:
            (tmp_path / step["file"]).write_text(step["content"])
        elif step["edited"]:
            file = tmp_path / step["edited"]
            before = file, file.read_text()
            old, new = (step[key].replace("\\n", "\n") for key in ("old", "new"))
            assert before[1].count(old) == 1
            file.write_text(before[1].replace(old, new))
        elif step["undo"]:
            before[0].write_text(before[1])
        else:
            for (program, *arguments), expected in sessions(step["session"]):
                done = run(*arguments, cwd=tmp_path, command=COMMANDS[program], **BARE)
                assert plain(done.stdout + done.stderr) == plain(expected)
                commands += 1
    assert commands == 7
