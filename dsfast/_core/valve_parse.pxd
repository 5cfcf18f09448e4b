"""C declarations of the syntax tree of a rule (see valve_parse.pyx)."""

cdef enum:
    # Kinds of nodes, with what `value` and `children` hold.
    LITERAL = 1         # value: UNDEFINED, None, bool, float or str
    IDENTIFIER          # value: the name
    REGEXP              # value: (source, flags)
    TEMPLATE            # value: list of texts; children: the expressions between them
    ARRAY               # children: the elements
    OBJECT              # children: key, value, key, value …
    UNARY               # value: the operator; one child
    BINARY              # value: the operator; two children
    LOGICAL             # value: && || ??; two children
    CONDITIONAL         # three children
    MEMBER              # value: the name; one child
    INDEX               # two children
    CALL                # value: the method; children: its object, the arguments
    REFERENCE           # children: the arguments of _()
    CHAIN               # one child: the chain that an optional link may end

cdef class Node:
    cdef readonly int kind
    cdef readonly object value
    cdef readonly list children
    cdef readonly Py_ssize_t start, end     # in the source, in characters
    cdef readonly bint constant             # no input takes part and it may be evaluated beforehand
    cdef readonly bint parenthesised
    cdef readonly bint optional             # MEMBER, INDEX, CALL: written with ?. behind the object
    cdef readonly bint optional_call        # CALL: written with ?. before the arguments

cdef class Parsed:
    cdef readonly Node root                 # None for an empty rule
    cdef readonly frozenset names           # identifiers that stand for a value

cdef object error_at(str source, Py_ssize_t position, str message)
cdef Parsed parse(str source)
