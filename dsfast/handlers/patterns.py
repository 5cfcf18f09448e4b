"""Listen patterns: JavaScript regular expressions of clients, so on RE2 only (see :mod:`dsfast.regexp`)."""

from __future__ import annotations

from collections.abc import Iterable

from dsfast.regexp import Matcher, RegexpError, to_units, translate

__all__ = ["Pattern", "PatternIndex"]

PATTERN_MEMORY = 256 * 1024
"""Bytes RE2 may spend on one pattern: about 4000 instructions."""

INDEX_MEMORY = 64 * 1024 * 1024
"""Bytes RE2 may spend on the common automaton of all patterns."""


class Pattern:
    """One compiled listen pattern."""

    __slots__ = ("_matcher", "source", "text")

    def __init__(self, text: str) -> None:
        """Raises RegexpError, see `dsfast.regexp.translate`."""
        self.text = text
        self.source = translate(text)
        self._matcher = Matcher((self.source,), PATTERN_MEMORY)

    def matches(self, name: str) -> bool:
        """Whether JavaScript's `new RegExp(text).test(name)` would be true."""
        return bool(self._matcher.match(to_units(name)))


class PatternIndex:
    """All patterns of a topic, so that a name is matched against them in one pass.

    The common automaton is rebuilt when enough patterns have come or gone to pay for it; until then the
    newest patterns are tried one by one.
    """

    def __init__(self) -> None:
        self._settled: dict[int, Pattern] = {}  # position in the matcher -> pattern
        self._positions: dict[Pattern, int] = {}
        self._fresh: dict[Pattern, None] = {}
        self._matcher: Matcher | None = None
        self._built = 0  # patterns in the matcher, also those that have gone since

    def add(self, pattern: Pattern) -> None:
        """`pattern` counts from now on."""
        self._fresh[pattern] = None

    def discard(self, pattern: Pattern) -> None:
        """`pattern` counts no more."""
        if pattern in self._fresh:
            del self._fresh[pattern]
        else:
            del self._settled[self._positions.pop(pattern)]

    def match(self, name: str) -> list[Pattern]:
        """The patterns that match `name`, in no order."""
        gone = self._built - len(self._settled)
        if len(self._fresh) > 16 + len(self._settled) // 8 or gone > 16 + len(self._settled):
            self._rebuild([*self._settled.values(), *self._fresh])
        found = [pattern for pattern in self._fresh if pattern.matches(name)]
        if self._matcher is not None:
            found += [
                self._settled[position]
                for position in self._matcher.match(to_units(name))
                if position in self._settled
            ]
        elif self._settled:
            found += [pattern for pattern in self._settled.values() if pattern.matches(name)]
        return found

    def _rebuild(self, patterns: Iterable[Pattern]) -> None:
        self._settled = dict(enumerate(patterns))
        self._positions = {pattern: position for position, pattern in self._settled.items()}
        self._built = len(self._settled)
        self._fresh = {}
        try:
            self._matcher = Matcher([p.source for p in self._settled.values()], INDEX_MEMORY)
        except RegexpError:
            # Together they are too large for one automaton, so each keeps its own.
            self._matcher = None
