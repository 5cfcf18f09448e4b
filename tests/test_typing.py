"""The plugin contract for type checkers: what authors write passes, what breaks the contract is found.

The examples are in tests/typed. mypy and pyright both look at the package as an author has it, with py.typed.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TYPED = ROOT / "tests" / "typed"
GOOD = sorted(path for path in TYPED.glob("*.py") if path.name != "wrong.py")
WRONG = TYPED / "wrong.py"


def mypy(tmp_path, *paths):
    """(file, line, code) of every error."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--show-error-codes"]
    command += [
        "--explicit-package-bases",
        "--config-file",
        os.devnull,
        "--cache-dir",
        str(tmp_path),
        *map(str, paths),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    pattern = re.compile(r"(tests/typed/\w+\.py):(\d+): error: .*\[([a-z-]+)\]")
    return {
        (found[1], int(found[2]), found[3])
        for line in done.stdout.splitlines()
        if (found := pattern.search(line))
    }


def pyright(tmp_path, *paths):
    """(file, line, rule) of every error."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        # The package of PyPI fetches the program when it is first used.
        if os.environ.get("CI"):
            raise
        pytest.skip(f"pyright does not run here: {(done.stderr or done.stdout)[-200:]}")
    assert report["summary"]["filesAnalyzed"] == len(paths)
    return {
        (str(Path(found["file"]).relative_to(ROOT)), found["range"]["start"]["line"] + 1, found.get("rule"))
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    }


CHECKERS = {"M": mypy, "P": pyright}


def expected(letter):
    found = set()
    for number, line in enumerate(WRONG.read_text().splitlines(), 1):
        for codes in re.findall(rf"(?<= ){letter}: ([\w,-]+)", line):
            found |= {("tests/typed/wrong.py", number, code) for code in codes.split(",")}
    return found


@pytest.mark.parametrize("letter", CHECKERS)
def test_plugins_as_authors_write_them_pass(letter, tmp_path):
    assert CHECKERS[letter](tmp_path, *GOOD) == set()


@pytest.mark.parametrize("letter", CHECKERS)
def test_what_breaks_the_contract_is_found(letter, tmp_path):
    assert len(expected(letter)) > 10
    assert CHECKERS[letter](tmp_path, WRONG) == expected(letter)
