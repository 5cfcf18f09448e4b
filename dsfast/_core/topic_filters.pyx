"""Topic filters of MQTT: what is one, and which of them match a topic (MQTT 3.1.1 section 4.7)."""
from dsfast._core.json_text cimport utf8_check


cdef bint topic_ok(const char *p, Py_ssize_t n) noexcept nogil:
    """Whether these bytes name a topic: UTF-8, not empty, without NUL and wildcards."""
    cdef Py_ssize_t i
    cdef unsigned char seen = 0
    if n <= 0 or n > 65535:
        return False
    for i in range(n):
        if p[i] == 0 or p[i] == c"+" or p[i] == c"#":
            return False
        seen |= <unsigned char>p[i]
    return seen < 128 or utf8_check(p, n)


cdef int filter_kind(bytes text) except -1:
    """FILTER_EXACT, FILTER_WILD or FILTER_INVALID."""
    cdef list levels
    if topic_ok(text, len(text)):
        return FILTER_EXACT
    if not text or len(text) > 65535 or b"\0" in text or not utf8_check(text, len(text)):
        return FILTER_INVALID
    levels = text.split(b"/")
    for level in levels:
        if len(level) > 1 and (b"+" in level or b"#" in level):
            return FILTER_INVALID
    if b"#" in levels and levels.index(b"#") + 1 < len(levels):
        return FILTER_INVALID
    return FILTER_WILD


def is_topic(bytes text not None):
    """Whether these bytes name a topic."""
    return topic_ok(text, len(text))


def kind_of(bytes text not None):
    """1 for a filter without wildcards, 2 for one with them, 0 for what is no filter."""
    return filter_kind(text)


cdef class FilterTree:
    """Filters with wildcards and who has them: a level of a filter leads from one dict to the next.

    The key None holds those whose filter ends there: holder → value.
    """

    def __init__(self):
        self.root = {}

    def add(self, bytes text not None, holder, int value):
        """Let ``holder`` have a filter; ``value`` replaces that of an equal one."""
        cdef dict node = self.root
        for level in text.split(b"/"):
            node = node.setdefault(level, {})
        node = node.setdefault(None, {})
        if holder not in node:
            self.count += 1
        node[holder] = value

    def remove(self, bytes text not None, holder):
        """Take a filter away; False if ``holder`` does not have it."""
        cdef dict node = self.root
        cdef list way = []
        for level in (*text.split(b"/"), None):
            if level not in node:
                return False
            way.append((node, level))
            node = node[level]
        if node.pop(holder, None) is None:
            return False
        self.count -= 1
        while way and not node:
            node, level = way.pop()
            del node[level]
        return True

    def match(self, bytes topic not None):
        """Holder → greatest value of its filters that match a topic."""
        cdef dict found = {}
        cdef dict node
        cdef list nodes = [self.root], below
        # Topics that begin with $ are only matched by filters that say so.
        cdef bint wild = not topic.startswith(b"$")
        for level in topic.split(b"/"):
            below = []
            for node in nodes:
                if wild:
                    if b"#" in node:
                        collect(found, node[b"#"])
                    if b"+" in node:
                        below.append(node[b"+"])
                if level in node:
                    below.append(node[level])
            if not below:
                return found
            nodes = below
            wild = True
        for node in nodes:
            collect(found, node)
            if b"#" in node:
                collect(found, node[b"#"])     # it matches the level above it too
        return found


cdef int collect(dict found, dict node) except -1:
    for holder, value in (<dict>node.get(None, {})).items():
        if value > found.get(holder, -1):
            found[holder] = value
    return 0
