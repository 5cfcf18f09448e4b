"""C declarations of the record path functions (see json_path.pyx)."""

cpdef tuple parse_path(str path)
cpdef object set_value(object root, str path, object value,
                       Py_ssize_t max_index_growth=*, Py_ssize_t max_array_length=*)
cpdef object erase_value(object root, str path,
                         Py_ssize_t max_index_growth=*, Py_ssize_t max_array_length=*)
cpdef object apply_multi(object root, object operations,
                         Py_ssize_t max_index_growth=*, Py_ssize_t max_array_length=*)
