"""Registries that tell others, and registries of plugins, behind the interface that the handlers call."""
from dsfast._core.fanout cimport Hub

cdef class PluginHub(Hub):
    pass
