"""Records in memory."""
from libc.stdint cimport int64_t, uint64_t

from dsfast._core.names cimport Named, NameTable

cdef class Record(Named):
    cdef Record newer           # LRU list of the cache
    cdef Record older
    cdef readonly int64_t version
    cdef bytes raw              # JSON text of the present state, or None if only the document is current
    cdef str name_text
    cdef object doc             # parsed document, or None if it was not needed yet
    cdef readonly Py_ssize_t size   # upper bound of the text size in bytes, as far as known
    cdef Py_ssize_t charged     # bytes counted for it in the cache
    cdef int64_t saved_version  # newest version the storage has confirmed
    cdef bint queued            # in the write-behind queue: changes need no further put
    cdef bint cached
    cdef uint64_t used          # ms, monotonic; kept only with a ttl
    cpdef bytes text(self)
    cdef str text_name(self)
    cdef object document(self)

cdef class RecordCache:
    cdef NameTable table
    cdef Record head            # sentinel of the LRU list
    cdef public Py_ssize_t max_bytes
    cdef public Py_ssize_t max_entries
    cdef readonly uint64_t ttl          # ms; 0: none
    cdef bint ordered           # the LRU order matters
    cdef readonly Py_ssize_t used_bytes
    cdef readonly uint64_t hits
    cdef readonly uint64_t misses
    cdef readonly uint64_t evictions
    cdef public bint over_limit
    cdef Record find(self, const char *p, Py_ssize_t n)
    cdef void link(self, Record record) noexcept
    cdef int touch(self, Record record) except -1
    cdef int put(self, Record record) except -1
    cdef int drop(self, Record record) except -1
    cdef int recharge(self, Record record) except -1
    cdef void renew(self, Record record) noexcept
    cdef int evict(self, Record keep) except -1
