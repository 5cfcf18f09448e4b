"""Timing wheel: one loop timer serves every time limit of a server (DESIGN.md section 5).

Adding and cancelling are O(1), so that a call or a connection costs no timer object of the event loop.
Resolution 10 ms; a timer never fires early.
"""
import logging

from libc.stdint cimport uint64_t
from libc.string cimport memset

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *ts)


cdef uint64_t now_ms() noexcept nogil:
    """Milliseconds of the monotonic clock."""
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t>ts.tv_sec * 1000 + <uint64_t>ts.tv_nsec // 1000000


cdef class Timer:
    """One pending time limit. Core classes subclass it and override ``fire``."""

    def __init__(self, callback=None):
        self.callback = callback

    cdef int fire(self) except -1:
        if self.callback is not None:
            self.callback()
        return 0

    cdef void unlink(self) noexcept:
        cdef Timer prev = self.prev, next = self.next
        if self.wheel is not None:
            prev.next = next
            next.prev = prev
            self.wheel.sizes[self.due % SLOTS] -= 1
            self.wheel.count -= 1
            self.prev = self.next = None
            self.wheel = None

    cpdef cancel(self):
        """Take the timer out; harmless if it fired or was cancelled before."""
        self.unlink()

    @property
    def active(self):
        """Whether it is still going to fire."""
        return self.wheel is not None


# Longer than any process lives; keeps the arithmetic of ticks from overflowing.
cdef uint64_t FAR_MS = <uint64_t>1 << 50


cdef class TimingWheel:
    """1024 slots of 10 ms; a timer further away stays in its slot for another round."""

    def __cinit__(self, loop):
        self.loop = loop
        self.handle = None
        self.wake = self.on_wake
        self.tick = now_ms() // TICK_MS
        self.wake_tick = 0
        self.closed = False
        memset(self.sizes, 0, sizeof(self.sizes))
        self.slots = []
        cdef Timer head
        for _ in range(SLOTS):
            head = Timer()
            head.prev = head.next = head
            self.slots.append(head)

    cdef int schedule(self, Timer timer, uint64_t ms) except -1:
        """(Re)arm a timer to fire in ms milliseconds, one tick late at the most."""
        cdef uint64_t due = (now_ms() + (ms if ms < FAR_MS else FAR_MS)) // TICK_MS + 1
        cdef Timer head
        timer.unlink()
        if self.closed:
            return 0
        if self.count == 0:
            self.tick = now_ms() // TICK_MS
        if due <= self.tick:
            due = self.tick + 1
        timer.due = due
        head = <Timer>self.slots[due % SLOTS]
        timer.prev = head.prev
        timer.next = head
        head.prev.next = timer
        head.prev = timer
        timer.wheel = self
        self.sizes[due % SLOTS] += 1
        self.count += 1
        if self.handle is None or due < self.wake_tick:
            self.arm()
        return 0

    cdef int arm(self) except -1:
        """Set the loop timer to the next slot that holds anything."""
        cdef uint64_t t = self.tick + 1, last = self.tick + SLOTS
        cdef double delay
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None
        if self.count == 0 or self.closed:
            return 0
        while t < last and self.sizes[t % SLOTS] == 0:
            t += 1
        self.wake_tick = t
        delay = (<double>t * TICK_MS - <double>now_ms()) / 1000.0
        self.handle = self.loop.call_later(delay if delay > 0 else 0, self.wake)
        return 0

    def on_wake(self):
        cdef uint64_t now = now_ms() // TICK_MS, t
        cdef Timer head, timer
        cdef list due = []
        self.handle = None
        # A stall longer than a whole round must not walk the slots more than once.
        t = self.tick + 1 if now - self.tick <= SLOTS else now - SLOTS + 1
        while t <= now:
            if self.sizes[t % SLOTS]:
                head = <Timer>self.slots[t % SLOTS]
                timer = head.next
                while timer is not head:
                    if timer.due <= now:
                        due.append(timer)
                    timer = timer.next
            t += 1
        self.tick = now
        for timer in due:
            if timer.wheel is not None and timer.due <= now:    # not cancelled or re-armed by one before
                timer.unlink()
                try:
                    timer.fire()
                except Exception:
                    logging.getLogger("dsfast").exception("exception in a timer")
        self.arm()

    cpdef Timer call_later(self, double milliseconds, object callback):
        """Call ``callback()`` once after at least ``milliseconds``; returns the Timer (``cancel()``)."""
        cdef Timer timer = Timer(callback)
        if not milliseconds > 0:
            milliseconds = 0
        self.schedule(timer, <uint64_t>milliseconds if milliseconds < <double>FAR_MS else FAR_MS)
        return timer

    def close(self):
        """Drop everything that is still pending; nothing fires any more."""
        cdef Timer head, timer
        self.closed = True
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None
        for head in self.slots:
            while head.next is not head:
                timer = head.next
                timer.unlink()
            head.prev = head.next = None      # the list heads are circles of their own
