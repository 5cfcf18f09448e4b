"""C declarations of compiled rules and of what they are evaluated with (see valve.pyx)."""
from cpython.object cimport PyObject

from dsfast._core.buffer cimport Slice

cdef struct Value:
    # A value of the language. Everything in it is borrowed from the rule, the scope or the running evaluation.
    int tag
    double number               # of a number; 0 or 1 of a boolean
    const char *p               # of a string: WTF-8, see js_values.pyx
    Py_ssize_t n
    PyObject *o                 # of an array, object, regexp or function; of a string its str, if there is one

cdef struct Instruction:
    int op
    int a
    int b

cdef class Scope:
    cdef Slice user_id
    cdef object user_data
    cdef object data
    cdef object old_data
    cdef double now
    cdef int action
    cdef bint has_name
    cdef Slice name
    cdef const Slice *variables
    cdef object lookup              # what the base class's `reference` calls
    cdef list kept
    cdef Slice *own_variables
    cdef Py_ssize_t variable_count  # of variables that came from Python

    cdef Slice slice_of(self, str text) except *
    cdef int set_variables(self, tuple texts) except -1
    cdef object reference(self, str name)

cdef class Rule:
    cdef readonly str source
    cdef readonly tuple variables
    cdef readonly int constant
    cdef readonly bint uses_data
    cdef readonly bint uses_old_data
    cdef readonly bint uses_references
    cdef readonly bint uses_user
    cdef readonly bint uses_variables
    cdef readonly bint uses_now
    cdef Instruction *code
    cdef Value *constants
    cdef list kept
    cdef int stack_size

    cdef int evaluate(self, Scope scope) except -1
    cdef int check(self, Scope scope) except -1

cpdef Rule compile_rule(object source, tuple variables=*)
