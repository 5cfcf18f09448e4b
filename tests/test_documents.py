"""The documents: their examples are valid, their links lead somewhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_examples_can_be_compiled(path):
    for example in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
        compile(example, path.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_places_that_are_named_in_the_architecture_exist():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for place in re.findall(r"`((?:dsfast|services|bench)/[a-z_/.]*)`", text):
        assert (ROOT / place).exists() or (ROOT / "dsfast" / place).exists(), place


def test_the_permission_of_the_readme_does_what_it_says():
    text = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    names = {}
    exec(example.replace("asyncio.run(main())", ""), names)

    class Anything:
        user_id = "ada"
        name = "user/ada"

    permission = names["OwnNames"]({}, None, None)
    assert permission.can_perform_action(Anything, Anything)
    Anything.name = "user/bob"
    assert not permission.can_perform_action(Anything, Anything)
