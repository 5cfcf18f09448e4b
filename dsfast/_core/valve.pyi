"""Rules of the permission language (spec/valve.md sections 5 and 6): compile and evaluate."""

from collections.abc import Callable, Sequence

from dsfast._core.js_values import UNDEFINED as UNDEFINED
from dsfast._core.valve_parse import RuleSyntaxError as RuleSyntaxError
from dsfast.regexp import Regexp

class RuleError(Exception):
    """The evaluation of a rule failed: what JavaScript throws, a limit, or a wrong argument of `_()`."""

class Scope:
    """The inputs of an evaluation."""

    def __init__(
        self,
        *,
        user_id: str = "open",
        user_data: object = None,
        data: object = ...,
        old_data: object = ...,
        now: float = 0,
        action: int = 0,
        name: str | None = None,
        variables: Sequence[str] = (),
        reference: Callable[[str], object] | None = None,
    ) -> None:
        """`user_data`, `data` and `old_data` are JSON values or UNDEFINED; `now` is ms since 1970.

        `variables` are in the order of Rule.variables. `reference` gives the data of the record for
        `_(name)`: None if there is none, UNDEFINED while it is not known yet; without it no record exists.
        """

class Rule:
    """A compiled rule; it does not change and can be evaluated any number of times."""

    source: str
    variables: tuple[str, ...]
    """Names of the path's variables, without $, as compiled with."""
    constant: int
    """1 if it always allows, 0 if it always refuses, -1 if it has to be evaluated."""
    uses_data: bool
    uses_old_data: bool
    uses_references: bool
    uses_user: bool
    uses_variables: bool
    uses_now: bool

    @property
    def names(self) -> frozenset[str]:
        """The names in it: of inputs, of path variables with their $, and unknown ones."""

    @property
    def regexps(self) -> tuple[Regexp, ...]:
        """The compiled regular expressions among its literals."""

    def allows(self, scope: Scope) -> bool:
        """Whether the value is truthy; raises RuleError, or what the scope's `reference` raises."""

    def value(self, scope: Scope) -> object:
        """The value itself, UNDEFINED for undefined; not to be changed. Raises as `allows` does."""

def compile_rule(source: str | bool, variables: tuple[str, ...] = ()) -> Rule:
    """Compile a rule of a permission file: an expression, or True or False.

    `variables` are the names of the path's variables without `$`, in the order in which a Scope brings their
    values; of two with the same name the last counts. Raises RuleSyntaxError.
    """
