"""Events: publish and subscribe (spec/events-rpc-presence-listen.md section 2)."""

from typing import Any

from dsfast._core.fanout import Registry
from dsfast._core.router import Handler

class EmitWatch:
    """Sees every event that is permitted."""

class EventHandler(Handler):
    """Topic EVENT; ``listen`` takes the messages of listeners."""

    registry: Registry
    def __init__(self, registry: Registry, listen: Any) -> None: ...
