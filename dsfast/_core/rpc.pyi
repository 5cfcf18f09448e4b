"""Remote procedure calls (spec/events-rpc-presence-listen.md section 3)."""

from typing import Any

from dsfast._core.fanout import Registry
from dsfast._core.router import Handler
from dsfast._core.timers import TimingWheel

class RpcHandler(Handler):
    """Topic RPC; ``options`` (RpcConfig) are read at use, times in ms."""

    registry: Registry
    def __init__(self, registry: Registry, wheel: TimingWheel, options: Any) -> None: ...
    @property
    def open_calls(self) -> int: ...
