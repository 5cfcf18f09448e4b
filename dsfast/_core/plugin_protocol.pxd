"""A protocol whose messages are read and written by a plugin."""
from dsfast._core.buffer cimport Buf
from dsfast._core.connection cimport Protocol

cdef class PluginProtocol(Protocol):
    cdef object owner
    cdef int put(self, bytes payload, Buf *out) except -1
