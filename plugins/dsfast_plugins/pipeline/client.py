"""Commands to wherever a record lives, through losses of connections and changes of place."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dsfast.plugin import Logger, PluginError
from dsfast_plugins.pipeline.link import Address, Command, Link, Refused, ServerError

__all__ = ["Action", "Client", "Limits"]

MIN_DELAY = 0.01
MAX_DELAY = 1.0
"""Seconds between attempts to connect, with full jitter."""


class _Lane:
    """Commands of one part of the records; they never overtake each other."""

    __slots__ = ("drained", "index", "inflight", "link", "queue")

    def __init__(self, index: int) -> None:
        self.index = index
        self.link: Link | None = None
        self.queue: deque[Command] = deque()
        self.inflight = 0
        self.drained: asyncio.Future[None] | None = None

    def note_drained(self) -> None:
        """Tell who waits for it when everything that was sent is answered."""
        if not self.inflight and self.drained is not None:
            if not self.drained.done():
                self.drained.set_result(None)
            self.drained = None


class Action(Enum):
    """What to do about an answer that is an error."""

    FAIL = "give it to the caller"
    LATER = "it goes away: send the command again after a pause"
    ELSEWHERE = "send the command where the lane is now"
    RECONNECT = "this server is the wrong one: find the right one, send again"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may use up. Times are in seconds."""

    timeout: float
    """Until a command has an answer."""
    connect_timeout: float
    max_queue_bytes: int = 64 << 20
    """Commands without an answer."""
    max_retries: int | None = None
    """How often a command is sent again after a lost connection."""
    max_redirections: int = 16
    queue_while_away: bool = True


class Client(ABC):
    """A pipelined client of one kind of server.

    A lane is a part of the records; its commands take effect in order. Every command is answered within
    ``limits.timeout``, by a reply or by an Exception; commands whose connection was lost are sent again in
    their order until then. All commands must be idempotent.
    """

    name: str
    """What the server is called in log lines and errors."""
    description: str
    """Where the server is, for people."""

    def __init__(self, lanes: int, limits: Limits, logger: Logger) -> None:
        self._limits = limits
        self._timeout = limits.timeout
        self._logger = logger
        self._lanes = [_Lane(index) for index in range(lanes)]
        self._links: dict[Address, Link] = {}
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._delay = MIN_DELAY
        self._pause = False
        self._away: Exception | None = None
        self._closed = False

    # ---- what a kind of server has to say

    async def refresh(self) -> None:  # noqa: B027 - places may be fixed
        """Find out where the lanes are. Raises OSError, ServerError or Refused."""

    @abstractmethod
    def address(self, lane: int) -> Address | None:
        """Where a lane is, as of the last refresh; None if nobody has it."""

    @abstractmethod
    async def connect(self, address: Address) -> Link:
        """A connection that is ready, made by :func:`open_link` with :meth:`on_reply` and :meth:`on_lost`."""

    def judge(self, lane: int, error: Exception) -> Action:
        """What to do about an answer that is an error."""
        return Action.FAIL

    # ---- life

    async def start(self) -> None:
        """Return when every part of the records can be reached. Raises Refused if waiting makes no sense."""
        self._recovery = self._loop.create_task(self._recover(starting=True))
        await self._recovery

    async def close(self) -> None:
        """Send what is queued on open connections, then end."""
        self._closed = True
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.wait([self._recovery])
        if self._timer is not None:
            self._timer.cancel()
        links, self._links = list(self._links.values()), {}
        for link in links:
            commands, link.pending = list(link.pending), deque()
            link.close()
            for command in commands:
                self._finish(command, PluginError(f"{self.name} is closed"))
        for lane in self._lanes:
            lane.link = None
            while lane.queue:
                self._finish(lane.queue.popleft(), PluginError(f"{self.name} is closed"))

    # ---- work

    def submit(self, lane_index: int, packed: bytes, done: Callable[[Any], None]) -> None:
        """Send a command; ``done`` gets the reply or an Exception."""
        lane = self._lanes[lane_index]
        if self._closed:
            done(PluginError(f"{self.name} is closed"))
            return
        if lane.link is None and not self._limits.queue_while_away:
            done(PluginError(f"{self.name} is away ({self._away})"))
            return
        if self._bytes + len(packed) > self._limits.max_queue_bytes:
            done(PluginError(f"{self.name} is too slow: {self._bytes} bytes wait already"))
            return
        command = Command(packed, done)
        command.lane = lane
        self._number += 1
        command.number = self._number
        command.deadline = self._loop.time() + self._timeout
        self._bytes += len(packed)
        if self._timer is None:
            self._arm()
        if lane.link is None:
            lane.queue.append(command)
        else:
            lane.inflight += 1
            lane.link.send(command)

    def call(self, lane: int, packed: bytes) -> asyncio.Future[Any]:
        """As :meth:`submit`, for those who can wait; raises the error."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(reply: Any) -> None:
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self.submit(lane, packed, done)
        return future

    def _finish(self, command: Command, reply: Any) -> None:
        self._bytes -= len(command.packed)
        done, command.done = command.done, None
        if done is not None:
            done(reply)

    # ---- answers

    def on_reply(self, command: Command, reply: Any) -> None:
        """An answer has come; called by the connections."""
        lane = command.lane
        if lane is None:
            if command.done is not None:
                command.done(reply)
            return
        lane.inflight -= 1
        if isinstance(reply, Exception):
            self._on_error(command, lane, reply)
        else:
            self._delay = MIN_DELAY
            self._finish(command, reply)
        lane.note_drained()

    def _on_error(self, command: Command, lane: _Lane, reply: Exception) -> None:
        action = self.judge(lane.index, reply)
        if action is Action.FAIL:
            self._finish(command, PluginError(f"{self.name}: {reply}"))
            return
        error = ServerError(str(reply))
        if action is Action.ELSEWHERE:
            self._again(command, error, self._limits.max_redirections)
        else:
            self._note_outage(error)
            self._again(command, error, None)
        if action is Action.RECONNECT and lane.link is not None:
            lane.link.abort(error)
        self._detach(lane)

    def _again(self, command: Command, why: Exception, limit: int | None) -> None:
        command.tries += 1
        if command.done is None or self._closed or (limit is not None and command.tries > limit):
            self._finish(command, PluginError(f"{self.name}: {why}"))
        else:
            command.lane.queue.append(command)

    def on_lost(self, link: Link, unanswered: list[Command], error: Exception) -> None:
        """A connection has ended; called by the connections."""
        known = self._links.get(link.address) is link
        if known:
            del self._links[link.address]
        for command in unanswered:
            lane = command.lane
            if lane is None:
                if command.done is not None:
                    command.done(error)
                continue
            lane.inflight -= 1
            self._again(command, error, self._limits.max_retries)
            lane.note_drained()
        if known and not self._closed:
            self._note_outage(error)
            for lane in self._lanes:
                if lane.link is link:
                    self._detach(lane)

    # ---- finding the way

    def _detach(self, lane: _Lane) -> None:
        """Hold the commands of a part until it was found (again)."""
        lane.link = None
        if self._recovery is None and not self._closed:
            self._recovery = self._loop.create_task(self._recover())

    async def _recover(self, *, starting: bool = False) -> None:
        try:
            while any(lane.link is None for lane in self._lanes):
                if self._pause:
                    self._pause = False
                    await asyncio.sleep(random.uniform(MIN_DELAY, self._delay))
                    self._delay = min(self._delay * 2, MAX_DELAY)
                try:
                    await self.refresh()
                    await self._attach_all()
                except Refused as error:
                    if starting:
                        raise
                    self._note_outage(error)
                except Exception as error:  # whatever it is, the way has to be found in the end
                    self._note_outage(error)
        finally:
            self._recovery = None
        if self._away is not None:
            self._away = None
            self._logger.info("INFO", f"{self.name} is back: {self.description}")

    async def _attach_all(self) -> None:
        failed: dict[Address | None, Exception] = {}
        for lane in self._lanes:
            if lane.link is not None:
                continue
            address = self.address(lane.index)
            try:
                if address in failed:
                    continue
                if address is None:
                    raise ServerError("nobody has this part of the records")
                link = await self._link_to(address)
                if lane.inflight:  # on an old connection: what was sent first has to be answered first
                    lane.drained = self._loop.create_future()
                    await lane.drained
                self._release(lane, link)
            except Exception as error:
                failed[address] = error
        if failed:
            self._pause = True
            raise next(iter(failed.values()))

    def _release(self, lane: _Lane, link: Link) -> None:
        """Send what waited, in the order in which it was submitted."""
        queue = sorted(lane.queue, key=_by_number)
        lane.queue.clear()
        lane.link = link if self._links.get(link.address) is link else None
        for command in queue:
            if lane.link is None:
                lane.queue.append(command)
            else:
                lane.inflight += 1
                lane.link.send(command)

    async def _link_to(self, address: Address) -> Link:
        link = self._links.get(address)
        if link is None:
            link = await self.connect(address)
            if link.lost is not None:  # it has ended while we were told that it is there
                raise link.lost
            self._links[address] = link
        return link

    def _note_outage(self, error: Exception) -> None:
        self._pause = True
        if self._away is None:
            text = f"{self.name} ({self.description}) cannot be used, trying again: {_text(error)}"
            self._logger.warn("CACHE_ERROR", text)
        self._away = error

    # ---- time

    def _arm(self) -> None:
        self._timer = self._loop.call_later(self._timeout / 8, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        self._timer = None
        now = self._loop.time()
        for lane in self._lanes:
            if lane.queue and any(command.deadline <= now for command in lane.queue):
                queue, lane.queue = lane.queue, deque()
                for command in queue:
                    if command.deadline <= now:
                        self._finish(command, self._too_late())
                    else:
                        lane.queue.append(command)
        for link in list(self._links.values()):
            self._look_at_link(link, now)
        if self._bytes:
            self._arm()

    def _look_at_link(self, link: Link, now: float) -> None:
        late = False
        for command in link.pending:
            if command.lane is None:
                continue
            if command.deadline > now:
                break
            late = True
            # The place stays: its answer may still come, and must not be taken for another's.
            done, command.done = command.done, None
            if done is not None:
                done(self._too_late())
        if late and now - link.last_received >= self._timeout:
            link.abort(TimeoutError(f"no answer within {self._timeout * 1000:g} ms"))

    def _too_late(self) -> PluginError:
        why = f" ({_text(self._away)})" if self._away is not None else ""
        return PluginError(f"{self.name} did not answer within {self._timeout * 1000:g} ms{why}")


def _by_number(command: Command) -> int:
    return command.number


def _text(error: Exception | None) -> str:
    return str(error) or type(error).__name__
