"""Prints what ``pyproject.toml`` asks for, one requirement per line, for ``pip install``.

usage: requirements.py {build,run,<extra>}...
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
groups = {
    "build": project["build-system"]["requires"],
    "run": project["project"]["dependencies"],
    **project["project"]["optional-dependencies"],
}
for name in sys.argv[1:]:
    # No spaces, so that a shell takes each line as one word.
    print(*(requirement.replace(" ", "") for requirement in groups[name]), sep="\n")
