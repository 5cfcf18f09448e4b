"""Hash table from the UTF-8 bytes of a name to the object of that name; a lookup makes no Python object."""
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from dsfast._core.buffer cimport name_hash

# Random per process: clients choose names and must not be able to make them collide.
cdef uint64_t HASH_KEY = int.from_bytes(os.urandom(8), "little")


cdef class Named:
    """Base of everything that is looked up by name."""

    cdef int set_name(self, const char *p, Py_ssize_t n) except -1:
        self.key = PyBytes_FromStringAndSize(p, n)
        self.p = PyBytes_AS_STRING(self.key)
        self.n = n
        self.hash = name_hash(p, <size_t>n, HASH_KEY)
        return 0

    cpdef str decoded(self):
        """The name as str."""
        return self.key.decode()


cdef class NameTable:
    """Open addressing with linear probing and backward-shift deletion; holds one reference to each item."""

    def __cinit__(self):
        self.slots = NULL
        self.mask = 0
        self.count = 0

    def __dealloc__(self):
        cdef size_t i
        if self.slots != NULL:
            for i in range(self.mask + 1):
                if self.slots[i] != NULL:
                    Py_DECREF(<object>self.slots[i])
            free(self.slots)

    cdef PyObject *find(self, const char *p, Py_ssize_t n) noexcept nogil:
        """The item of that name as a borrowed reference, or NULL."""
        cdef uint64_t h
        cdef size_t i
        cdef PyObject *o
        if self.count == 0:
            return NULL
        h = name_hash(p, <size_t>n, HASH_KEY)
        i = h & self.mask
        while True:
            o = self.slots[i]
            if o == NULL:
                return NULL
            if ((<Named>o).hash == h and (<Named>o).n == n and memcmp((<Named>o).p, p, <size_t>n) == 0):
                return o
            i = (i + 1) & self.mask

    cdef int add(self, Named item) except -1:
        """Put in an item whose name is not there yet."""
        cdef size_t i
        if self.slots == NULL:
            self.resize(16)
        elif <size_t>self.count * 4 >= (self.mask + 1) * 3:
            self.resize((self.mask + 1) * 2)
        i = item.hash & self.mask
        while self.slots[i] != NULL:
            i = (i + 1) & self.mask
        Py_INCREF(item)
        self.slots[i] = <PyObject*>item
        self.count += 1
        return 0

    cdef int remove(self, Named item) except -1:
        """Take out an item; does nothing if it is not there."""
        cdef size_t i, j, home
        if self.count == 0:
            return 0
        i = item.hash & self.mask
        while self.slots[i] != <PyObject*>item:
            if self.slots[i] == NULL:
                return 0
            i = (i + 1) & self.mask
        j = i
        while True:
            j = (j + 1) & self.mask
            if self.slots[j] == NULL:
                break
            home = (<Named>self.slots[j]).hash & self.mask
            # move it into the gap unless its home lies cyclically in (i, j]
            if (j - home) & self.mask >= (j - i) & self.mask:
                self.slots[i] = self.slots[j]
                i = j
        self.slots[i] = NULL
        self.count -= 1
        Py_DECREF(item)
        return 0

    cdef int resize(self, size_t size) except -1:
        cdef PyObject **old = self.slots
        cdef size_t old_mask = self.mask, i, k
        cdef PyObject **fresh = <PyObject**>calloc(size, sizeof(PyObject*))
        if fresh == NULL:
            raise MemoryError("dsfast: out of memory")
        if old != NULL:
            for i in range(old_mask + 1):
                if old[i] != NULL:
                    k = (<Named>old[i]).hash & (size - 1)
                    while fresh[k] != NULL:
                        k = (k + 1) & (size - 1)
                    fresh[k] = old[i]
            free(old)
        self.slots = fresh
        self.mask = size - 1
        return 0

    cdef list items(self):
        cdef list found = []
        cdef size_t i
        if self.count:
            for i in range(self.mask + 1):
                if self.slots[i] != NULL:
                    found.append(<object>self.slots[i])
        return found
