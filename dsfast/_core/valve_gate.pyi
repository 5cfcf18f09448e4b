"""Permission rules applied in the core (spec/valve.md sections 3, 4, 8 and 9)."""

from typing import Any

from dsfast._core.connection import Connection
from dsfast._core.protocol import Message
from dsfast._core.records import RecordCore
from dsfast._core.router import Gate
from dsfast._core.valve import Rule

SECTIONS: tuple[tuple[str, tuple[str, ...]], ...]

def rule_type(topic: int, action: int) -> tuple[str, str] | None: ...
def operations_of(data: bytes | None, name: str) -> list[tuple[str, bool, Any]]: ...

def payload(text: bytes, source: str) -> Any: ...

class Binding:
    """A rule, and what its path variables are for one name."""

    rule: Rule
    values: tuple[bytes, ...]
    error: str | None
    def __init__(self, rule: Rule, values: tuple[str, ...]) -> None: ...
    def failure(self, name: str | None, error: object) -> str: ...

class RuleTable:
    """Finds the rule for a name; what was found is remembered for at most ``limit`` names."""

    rules: Any
    def __init__(self, rules: Any, limit: int = 100_000) -> None: ...
    def bind(self, topic: int, action: int, name: str | None) -> Binding | None: ...
    def sweep(self) -> None: ...
    def __len__(self) -> int: ...

class Run:
    """One check that may have to wait for records: ``attempt`` again until it needs no more (section 8)."""

    def __init__(self, binding: Binding, user_id: str | None, user_data: Any, message: Message) -> None: ...
    uses_record: bool
    data: Any
    old_data: Any
    def attempt(self, known: dict[str, Any], now: float = -1) -> tuple[bool, set[str]]: ...
    def value(self) -> Any: ...

class ValveGate(Gate):
    """Decides with the rules of one server."""

    table: RuleTable
    records: RecordCore | None
    def __init__(self, table: RuleTable, max_runs: int) -> None: ...
    def use(self, table: RuleTable) -> None: ...
    def set_records(self, records: RecordCore) -> None: ...
    def measure(self, connection: Connection, messages: list[Message], rounds: int = 1) -> float: ...
