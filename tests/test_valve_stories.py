"""Rules as applications have them, with what they must decide: the files in `tests/valve`."""

from pathlib import Path

import pytest

from dsfast.valve import read_cases

FILES = sorted((Path(__file__).parent / "valve").glob("*.yml"))
CASES = [case for file in FILES for case in read_cases(file)]


def test_there_are_stories():
    assert {"chat_rooms", "owners", "bidding", "references", "presence", "calls"} <= {
        file.stem for file in FILES
    }


@pytest.mark.parametrize("case", CASES, ids=[f"{Path(case.file).stem}:{case.line}" for case in CASES])
def test_story(case):
    case.check()
