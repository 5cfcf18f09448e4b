"""Lexer and parser of the rule language (spec/valve.md section 5)."""

from typing import final

class RuleSyntaxError(ValueError):
    """The rule is not an expression of the rule language; the text is what follows "SyntaxError: "."""

@final
class Node:
    """One construct of a rule."""

@final
class Parsed:
    """A syntax tree and the names in it."""

    names: frozenset[str]
