"""Hash table from the UTF-8 bytes of a name to the object of that name; a lookup makes no Python object."""
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t

cdef uint64_t HASH_KEY

cdef class Named:
    cdef bytes key          # UTF-8
    cdef const char *p      # its bytes
    cdef Py_ssize_t n
    cdef uint64_t hash
    cdef int set_name(self, const char *p, Py_ssize_t n) except -1
    cpdef str decoded(self)

cdef class NameTable:
    cdef PyObject **slots
    cdef size_t mask
    cdef readonly Py_ssize_t count
    cdef PyObject *find(self, const char *p, Py_ssize_t n) noexcept nogil
    cdef int add(self, Named item) except -1
    cdef int remove(self, Named item) except -1
    cdef int resize(self, size_t size) except -1
    cdef list items(self)
