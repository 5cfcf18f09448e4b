"""Timing wheel: one loop timer serves every time limit of a server."""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    SLOTS = 1024
    TICK_MS = 10

cdef uint64_t now_ms() noexcept nogil

cdef class Timer:
    cdef Timer prev
    cdef Timer next
    cdef uint64_t due       # tick at which it fires
    cdef object callback
    cdef TimingWheel wheel
    cdef int fire(self) except -1
    cdef void unlink(self) noexcept
    cpdef cancel(self)

cdef class TimingWheel:
    cdef object loop
    cdef object handle
    cdef object wake
    cdef uint64_t tick      # every slot up to here has been fired
    cdef uint64_t wake_tick
    cdef readonly Py_ssize_t count
    cdef uint32_t sizes[1024]
    cdef list slots
    cdef bint closed
    cdef int schedule(self, Timer timer, uint64_t ms) except -1
    cdef int arm(self) except -1
    cpdef Timer call_later(self, double milliseconds, object callback)
