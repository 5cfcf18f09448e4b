"""Growable byte buffer, slices and hashing shared by every module of the core (header only)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint64_t dsf_load64(const void *p) { uint64_t v; memcpy(&v, p, 8); return v; }
    static inline uint64_t dsf_mix(uint64_t a, uint64_t b) {
        __uint128_t r = (__uint128_t)a * b; return (uint64_t)r ^ (uint64_t)(r >> 64);
    }
    /* Keyed multiply-fold hash (the wyhash idea): names come from clients, so the key is random per process. */
    static inline uint64_t dsf_hash(const char *p, size_t n, uint64_t key) {
        uint64_t h = key ^ (n * 0x9E3779B97F4A7C15ull);
        while (n > 8) { h = dsf_mix(h ^ dsf_load64(p), 0xA0761D6478BD642Full ^ key); p += 8; n -= 8; }
        uint64_t tail = 0;
        memcpy(&tail, p, n);
        return dsf_mix(h ^ tail, 0xE7037ED1A0B428DBull ^ (key >> 1)) | 1;
    }
    #define dsf_likely(x) __builtin_expect(!!(x), 1)
    #define dsf_unlikely(x) __builtin_expect(!!(x), 0)
    """
    uint64_t name_hash "dsf_hash"(const char *p, size_t n, uint64_t key) nogil
    bint likely "dsf_likely"(bint x) nogil
    bint unlikely "dsf_unlikely"(bint x) nogil

cdef struct Slice:
    const char *p
    Py_ssize_t n

cdef struct Buf:
    char *p
    size_t n
    size_t cap


cdef inline char *buf_room(Buf *b, size_t n) except NULL nogil:
    """Make room for ``n`` more bytes and return where they go; the buffer may move."""
    cdef size_t cap
    cdef char *p
    # One byte is always left over, so that room for nothing in an empty buffer is a place too and not NULL.
    if unlikely(b.n + n >= b.cap):
        cap = b.cap if b.cap else 256
        while cap <= b.n + n:
            cap *= 2
        p = <char*>realloc(b.p, cap)
        if p == NULL:
            with gil:
                raise MemoryError("dsfast: out of memory")
        b.p = p
        b.cap = cap
    return b.p + b.n


cdef inline int buf_add(Buf *b, const char *p, size_t n) except -1 nogil:
    memcpy(buf_room(b, n), p, n)
    b.n += n
    return 0


cdef inline void buf_free(Buf *b) noexcept nogil:
    free(b.p)
    b.p = NULL
    b.n = b.cap = 0


cdef inline int varint_size(uint64_t v) noexcept nogil:
    cdef int n = 1
    while v >= 128:
        v >>= 7
        n += 1
    return n


cdef inline char *varint_put(char *p, uint64_t v) noexcept nogil:
    while v >= 128:
        p[0] = <char>((v & 127) | 128)
        p += 1
        v >>= 7
    p[0] = <char>v
    return p + 1


cdef inline const char *varint_get(const char *p, const char *e, uint64_t *v) noexcept nogil:
    """Read one base-128 varint of at most ten bytes; NULL when it is cut off or too long."""
    cdef uint64_t r
    cdef uint8_t c
    cdef int shift = 7
    if p >= e:
        return NULL
    c = <uint8_t>p[0]
    p += 1
    if likely(c < 128):
        v[0] = c
        return p
    r = c & 127
    while p < e and shift < 64:
        c = <uint8_t>p[0]
        p += 1
        if shift == 63 and c > 1:
            return NULL
        r |= <uint64_t>(c & 127) << shift
        if c < 128:
            v[0] = r
            return p
        shift += 7
    return NULL
