"""Records in memory: the state of one record, and the bounded cache of those in use (spec/caches.md section 3).

A record keeps its parsed document once a path was written, so that a patch costs what the patch costs; the JSON text
is made when somebody reads it or when it is stored, and kept until the next change.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from dsfast._core.json_text cimport dumps, loads
from dsfast._core.names cimport Named, NameTable
from dsfast._core.timers cimport now_ms

cdef enum:
    ENTRY_COST = 300        # bytes of a cached record besides its text
    SECOND_CHANCES = 64     # records that one eviction looks at in vain before it gives up


cdef class Record(Named):
    """One record as of its newest version; also what the write-behind layer takes its snapshots from."""

    def __cinit__(self, bytes key not None, int64_t version, bytes text not None):
        self.set_name(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        self.version = version
        self.saved_version = -1
        self.raw = text
        self.doc = None
        self.size = PyBytes_GET_SIZE(text)

    cpdef bytes text(self):
        """The present state as JSON text."""
        if self.raw is None:
            self.raw = dumps(self.doc)
            self.size = PyBytes_GET_SIZE(self.raw)
        return self.raw

    cdef str text_name(self):
        """The name as str; made once, the write-behind layer asks for it again and again."""
        if self.name_text is None:
            self.name_text = self.key.decode()
        return self.name_text

    cdef object document(self):
        """The parsed document, to be changed in place by whoever holds the turn of this record only."""
        if self.doc is None:
            self.doc = loads(self.raw)
        return self.doc

    def taken(self):
        """The write-behind layer has taken a snapshot: the next change must be queued again."""
        self.queued = False

    def saved(self, int64_t version):
        """A snapshot of this version is durable."""
        self.saved_version = version


cdef class RecordCache:
    """Memory cache with approximate LRU, bounded by bytes or entries (0: unbounded).

    Only records whose newest version the storage has confirmed are evicted (spec/caches.md section 3).
    """

    def __cinit__(self, Py_ssize_t max_bytes=0, Py_ssize_t max_entries=0, uint64_t ttl=0):
        self.table = NameTable()
        self.ttl = ttl
        self.ordered = max_bytes > 0 or max_entries > 0 or ttl > 0
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.head = Record(b"", -1, b"")
        self.head.newer = self.head.older = self.head

    def __len__(self):
        return self.table.count

    def close(self):
        """Forget everything."""
        cdef Record record = self.head.older, older
        while record is not self.head:
            older = record.older
            record.newer = record.older = None
            record.cached = False
            record = older
        self.head.newer = self.head.older = self.head
        self.table = NameTable()
        self.used_bytes = 0

    cdef Record find(self, const char *p, Py_ssize_t n):
        """The record of that name, or None."""
        cdef void *o = self.table.find(p, n)
        if o == NULL:
            self.misses += 1
            return None
        self.hits += 1
        return <Record>o

    cdef int touch(self, Record record) except -1:
        """Note a use, for LRU order; free while the cache has no bound."""
        if self.ordered and record.cached:
            if self.ttl:
                record.used = now_ms()
            self.renew(record)
        return 0

    cdef void renew(self, Record record) noexcept:
        """Move a cached record to the young end of the LRU list."""
        if record.newer is not self.head:
            record.newer.older = record.older
            record.older.newer = record.newer
            self.link(record)

    cdef void link(self, Record record) noexcept:
        record.newer = self.head
        record.older = self.head.older
        self.head.older.newer = record
        self.head.older = record

    cdef int put(self, Record record) except -1:
        """Add a record; another one of the same name gives way."""
        cdef void *o = self.table.find(record.p, record.n)
        if o == <void*>record:
            return 0
        if o != NULL:
            self.drop(<Record>o)
        self.table.add(record)
        record.cached = True
        self.link(record)
        record.charged = record.size + ENTRY_COST
        self.used_bytes += record.charged
        if self.ordered:
            record.used = now_ms()
            self.evict(record)
        return 0

    cdef int drop(self, Record record) except -1:
        """Take a record out."""
        if record.cached:
            record.cached = False
            self.used_bytes -= record.charged
            record.newer.older = record.older
            record.older.newer = record.newer
            record.newer = record.older = None
            self.table.remove(record)
        return 0

    cdef int recharge(self, Record record) except -1:
        """The record has changed its size."""
        cdef Py_ssize_t charge = record.size + ENTRY_COST
        if not record.cached:
            return 0
        if record.doc is not None:
            charge += 3 * record.size       # Python objects of the document, a rough mean
        self.used_bytes += charge - record.charged
        record.charged = charge
        if self.ordered:
            self.touch(record)
            self.evict(record)
        return 0

    cdef int evict(self, Record keep) except -1:
        """Make room by forgetting what was not used for longest, as far as the storage holds it.

        ``keep`` is in use at this moment. What cannot go is put to the young end, so that records which are never
        stored do not stand in the way of the others.
        """
        cdef Record record
        cdef Py_ssize_t chances = min(self.table.count, SECOND_CHANCES)
        while ((self.max_bytes and self.used_bytes > self.max_bytes)
               or (self.max_entries and self.table.count > self.max_entries)):
            record = self.head.newer
            if record is keep or record.queued or record.saved_version < record.version:
                if chances == 0:
                    self.over_limit = True
                    return 0
                chances -= 1
                self.renew(record)
            else:
                self.drop(record)
                self.evictions += 1
        return 0

    def shrink(self):
        """Evict what had to stay when there was no room, as far as the storage holds it now."""
        self.over_limit = False
        self.evict(None)

    def expire(self):
        """Forget what was not used for ``ttl`` ms, as far as the storage holds it; returns how many."""
        cdef Record record = self.head.newer, newer
        cdef uint64_t now = now_ms()
        cdef int count = 0
        while record is not self.head and record.used + self.ttl <= now:
            newer = record.newer
            if not record.queued and record.saved_version >= record.version:
                self.drop(record)
                count += 1
            record = newer
        self.evictions += count
        return count

    # --- for the cache service in Python -----------------------------------------------------------------------

    def lookup(self, str name not None):
        """The Record of a name, or None."""
        cdef bytes key = name.encode()
        return self.find(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))

    def store(self, str name not None, int64_t version, bytes text not None):
        """Put or replace a record."""
        cdef Record record = self.lookup(name)
        if record is None:
            self.put(Record(name.encode(), version, text))
        else:
            record.version = version
            record.raw = text
            record.doc = None
            record.size = PyBytes_GET_SIZE(text)
            self.recharge(record)

    def remove(self, str name not None):
        """Forget a record; False if it is not there."""
        cdef Record record = self.lookup(name)
        if record is None:
            return False
        self.drop(record)
        return True

    def stats(self):
        """Counters and present size."""
        return {"entries": self.table.count, "bytes": self.used_bytes, "hits": self.hits, "misses": self.misses,
                "evictions": self.evictions}
