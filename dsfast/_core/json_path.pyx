"""Paths into record documents (spec/records.md section 5): parse, set, erase, several at once.

Documents are changed in place, and every function is atomic: on a PathError the document is what it was.
A change costs what the path and the new value cost, never what the document costs.
"""

from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject

from dsfast._core.json_text cimport JSON_MAX_DEPTH

cdef enum:
    CACHED_PATHS = 4096         # the cache is emptied when it holds that many paths
    CACHED_PATH_LENGTH = 256    # longer paths are parsed each time, so that the cache stays small in bytes
    MAX_INDEX_DIGITS = 15       # an index stays below 2**53, as in JavaScript
    MAX_INDEX_GROWTH = 10_000
    MAX_ARRAY_LENGTH = 1_000_000

cdef dict path_cache = {}
cdef frozenset FORBIDDEN = frozenset(("__proto__", "constructor", "prototype"))

# What String.prototype.trim removes in JavaScript.
cdef str JS_SPACE = (
    "\t\n\x0b\x0c\r \xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)

# Journal marks, see `undo`; ERASED also stands in for members erased by an unfinished apply_multi.
cdef object ABSENT = object()
cdef object GROWN = object()
cdef object ERASED = object()


class PathError(ValueError):
    """The path is malformed, does not fit the document or exceeds a limit; nothing was changed."""


cdef int parse_part(str part, list tokens) except -1:
    """Append the tokens of one part, a member name and any number of `[index]`."""
    cdef Py_ssize_t start = part.find("[")
    cdef Py_ssize_t close
    cdef str name = part if start < 0 else part[:start]
    cdef str digits
    if "]" in name:
        raise PathError("unbalanced bracket")
    if not name:
        raise PathError("index without a member name")
    if name in FORBIDDEN:
        raise PathError(f"forbidden key {name}")
    tokens.append(name)
    while start >= 0:
        close = part.find("]", start)
        if close < 0:
            raise PathError("unbalanced bracket")
        digits = part[start + 1:close].strip(JS_SPACE)
        if not (digits.isascii() and digits.isdecimal()):
            raise PathError("index is not a plain non-negative integer")
        digits = digits.lstrip("0") or "0"
        if len(digits) > MAX_INDEX_DIGITS:
            raise PathError("index beyond the limit")
        tokens.append(int(digits))
        start = close + 1
        if start == len(part):
            break
        if part[start] != "[":
            raise PathError("text after ]")
    return 0


cpdef tuple parse_path(str path):
    """The tokens of a path: str for a member name, int for an array index; at least one.

    Raises PathError for everything outside the grammar of spec/records.md section 5 and for paths of more
    than 512 tokens. The result of recent short paths is cached.
    """
    cdef PyObject *cached
    cdef list tokens
    cdef tuple result
    cdef str part
    if path is None:
        raise PathError("no path")
    cached = PyDict_GetItemWithError(path_cache, path)
    if cached != NULL:
        return <tuple>cached
    tokens = []
    for part in path.split("."):
        part = part.strip(JS_SPACE)
        if part:
            parse_part(part, tokens)
            if len(tokens) > JSON_MAX_DEPTH:
                raise PathError("path too deep")
    if not tokens:
        raise PathError("path without a token")
    result = tuple(tokens)
    if len(path) <= CACHED_PATH_LENGTH:
        if len(path_cache) >= CACHED_PATHS:
            path_cache.clear()
        path_cache[path] = result
    return result


cdef inline object member_key(object token):
    """The member that a token addresses in an object: an index is a member there, too."""
    return token if type(token) is str else str(token)


cdef Py_ssize_t element_index(object token) except -1:
    """The element that a token addresses in an array: an index, or a member name in canonical index form."""
    if type(token) is int:
        return token
    cdef str name = <str>token
    if (not name.isascii() or not name.isdecimal() or (name[0] == "0" and len(name) > 1)
            or len(name) > MAX_INDEX_DIGITS):
        raise PathError("member name on an array")
    return int(name)


cdef Py_ssize_t check_growth(Py_ssize_t size, Py_ssize_t index, Py_ssize_t max_growth,
                             Py_ssize_t max_length) except -1:
    """Number of holes that storing at `index` makes in an array of `size`."""
    if index < size:
        return 0
    if index - size > max_growth or index >= max_length:
        raise PathError("index beyond the limit")
    return index - size


cdef bint deeper_than(object value, int limit):
    """Whether `value` nests more than `limit` containers."""
    if type(value) is dict:
        if limit == 0:
            return True
        for item in (<dict>value).values():
            if (type(item) is dict or type(item) is list) and deeper_than(item, limit - 1):
                return True
    elif type(value) is list:
        if limit == 0:
            return True
        for item in <list>value:
            if (type(item) is dict or type(item) is list) and deeper_than(item, limit - 1):
                return True
    return False


cdef Py_ssize_t find(object root, tuple tokens, bint erase, Py_ssize_t max_growth, Py_ssize_t max_length,
                     Py_ssize_t *holes, PyObject **found) except -1:
    """Walk down as far as the document goes and check the rest of the way, without changing anything.

    Returns the position of the first token whose value is missing or no container (at the latest the last
    token) and puts the container that this token applies to into `found`, borrowed from the document.
    `holes` gets the number of array holes that the change will fill with null.
    """
    cdef Py_ssize_t last = len(tokens) - 1
    cdef Py_ssize_t position = 0
    cdef Py_ssize_t index, rest
    cdef Py_ssize_t total = 0
    cdef PyObject *node = <PyObject *>root
    cdef PyObject *child
    cdef object token
    if type(root) is not dict and type(root) is not list:
        raise PathError("record data is not an object or array")
    while True:
        token = tokens[position]
        child = NULL
        if type(<object>node) is dict:
            if position < last:
                child = PyDict_GetItemWithError(<object>node, member_key(token))
        else:
            index = element_index(token)
            if index < len(<list>node):
                child = <PyObject *>(<list>node)[index]
            else:
                rest = check_growth(len(<list>node), index, max_growth, max_length)
                if not (erase and position == last):
                    total += rest
        if position == last or child == NULL or not (
                type(<object>child) is dict or type(<object>child) is list):
            break
        node = child
        position += 1
    # From here on arrays are new: their indices count from an empty array.
    for rest in range(position + 1, last + 1):
        token = tokens[rest]
        if type(token) is int:
            index = check_growth(0, token, max_growth, max_length)
            if not (erase and rest == last):
                total += index
    if total > max_growth:
        raise PathError("indices beyond the limit")
    holes[0] = total
    found[0] = node
    return position


cdef object new_branch(tuple tokens, Py_ssize_t position, object value, bint erase):
    """What the token at `position` must hold: `value`, or new containers down to it."""
    cdef Py_ssize_t i
    cdef list elements
    cdef object branch = value
    for i in range(len(tokens) - 1, position, -1):
        if erase and i == len(tokens) - 1:
            branch = [] if type(tokens[i]) is int else {}
        elif type(tokens[i]) is int:
            elements = [None] * <Py_ssize_t>tokens[i]
            elements.append(branch)
            branch = elements
        else:
            branch = {tokens[i]: branch}
    return branch


cdef int store(object node, object token, object value, list journal) except -1:
    """Put `value` where `token` points to in `node`; `find` has checked that it fits."""
    cdef Py_ssize_t index, size
    if type(node) is dict:
        key = member_key(token)
        if journal is not None:
            journal.append((node, key, (<dict>node).get(key, ABSENT)))
        (<dict>node)[key] = value
        return 0
    index = element_index(token)
    size = len(<list>node)
    if index < size:
        if journal is not None:
            journal.append((node, index, (<list>node)[index]))
        (<list>node)[index] = value
        return 0
    if journal is not None:
        journal.append((node, size, GROWN))
    if index > size:
        (<list>node).extend([None] * (index - size))
    (<list>node).append(value)
    return 0


cdef int remove(object node, object token, list journal) except -1:
    """Erase a member, or make an element null: arrays keep their length.

    With a journal an erased member is only marked, so that undoing keeps the order of the members.
    """
    if type(node) is list:
        if element_index(token) < len(<list>node):
            store(node, token, None, journal)
    elif journal is None:
        (<dict>node).pop(member_key(token), None)
    elif member_key(token) in <dict>node:
        store(node, token, ERASED, journal)
    return 0


cdef Py_ssize_t apply(object root, tuple tokens, bint erase, object value, Py_ssize_t max_growth,
                      Py_ssize_t max_length, list journal) except -1:
    """One change; returns the number of array holes it made."""
    cdef PyObject *found
    cdef Py_ssize_t holes
    cdef Py_ssize_t position = find(root, tokens, erase, max_growth, max_length, &holes, &found)
    if erase and position == len(tokens) - 1:
        remove(<object>found, tokens[position], journal)
        return holes
    if not erase and deeper_than(value, JSON_MAX_DEPTH - <int>len(tokens)):
        raise PathError("nested too deeply")
    store(<object>found, tokens[position], new_branch(tokens, position, value, erase), journal)
    return holes


cpdef object set_value(object root, str path, object value,
                       Py_ssize_t max_index_growth=MAX_INDEX_GROWTH,
                       Py_ssize_t max_array_length=MAX_ARRAY_LENGTH):
    """Set `path` in the dict or list `root`, in place.

    `value` becomes part of the document. Missing and scalar values on the way are replaced by containers.
    An array may grow by at most `max_index_growth` holes, counted over all arrays of the path, and to at
    most `max_array_length` elements; the document to at most 512 levels on this path. Returns the number of
    array holes made. Raises PathError, and then has changed nothing.
    """
    return apply(root, parse_path(path), False, value, max_index_growth, max_array_length, None)


cpdef object erase_value(object root, str path,
                         Py_ssize_t max_index_growth=MAX_INDEX_GROWTH,
                         Py_ssize_t max_array_length=MAX_ARRAY_LENGTH):
    """Erase `path` in `root`, in place: a member goes away, an array element becomes null.

    Missing parents are created, as upstream does. Result, limits and errors are those of `set_value`.
    """
    return apply(root, parse_path(path), True, None, max_index_growth, max_array_length, None)


cdef int undo(list journal) except -1:
    """Take back what the journal (container, key or index or old length, old value or mark) tells."""
    cdef Py_ssize_t i
    for i in range(len(journal) - 1, -1, -1):
        node, key, old = <tuple>journal[i]
        if old is GROWN:
            del (<list>node)[key:]
        elif old is ABSENT:
            del (<dict>node)[key]
        else:
            node[key] = old
    return 0


cdef int drop_erased(list journal) except -1:
    """Make the marks that `remove` left final."""
    for node, key, _ in journal:
        if type(node) is dict and (<dict>node).get(key) is ERASED:
            del (<dict>node)[key]
    return 0


cpdef object apply_multi(object root, object operations,
                         Py_ssize_t max_index_growth=MAX_INDEX_GROWTH,
                         Py_ssize_t max_array_length=MAX_ARRAY_LENGTH):
    """Apply (path, has_value, value) triples in order, all or none: set where `has_value`, else erase.

    The limits of `set_value` hold for each operation; all of them together may make at most
    `max_array_length` array holes, whose number is returned. On PathError the document is exactly as before.
    """
    cdef list journal = []
    cdef Py_ssize_t holes = 0
    try:
        for path, has_value, value in operations:
            holes += apply(root, parse_path(path), not has_value, value, max_index_growth, max_array_length,
                           journal)
            if holes > max_array_length:
                raise PathError("too many array holes")
    except BaseException:
        undo(journal)
        raise
    drop_erased(journal)
    return holes
