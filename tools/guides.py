"""Puts the tested example sources into the guides: ``python tools/guides.py``.

A line ``<!-- examples/my_cache.py -->`` in a page of docs/plugins is followed by the content of that file as
a block of code, whatever was there before.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

GUIDES = Path(__file__).parent.parent / "docs" / "plugins"

_INCLUDED = re.compile(
    r"^<!-- (examples/\w+\.py) -->\n+(?:```python\n.*?^```\n)?\n*", re.MULTILINE | re.DOTALL
)


def rendered(page: str) -> str:
    """A page with its example sources as they are now. Raises OSError for one that is missing."""
    text = _INCLUDED.sub(
        lambda found: f"<!-- {found[1]} -->\n\n```python\n{(GUIDES / found[1]).read_text()}```\n\n", page
    )
    return text.rstrip("\n") + "\n"


def examples(page: str) -> list[str]:
    """The names of the sources that a page includes."""
    return _INCLUDED.findall(page)


def main() -> None:
    """Write all pages that have changed."""
    for path in sorted(GUIDES.glob("*.md")):
        text = path.read_text()
        if (new := rendered(text)) != text:
            path.write_text(new)
            print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
