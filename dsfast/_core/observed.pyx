"""Tells a monitoring plugin about every message (plugins.md B.8).

The built-in monitorings read counters. Only a plugin that has written one of the methods for messages gets a hub and
handlers that tell it, and then a call and an object are made for each message (DESIGN.md section 4).
"""
from dsfast._core.connection cimport Connection
from dsfast._core.fanout cimport Peer, Subject
from dsfast._core.plugin_registry cimport PluginHub
from dsfast._core.protocol cimport Message, Msg, decode_msg, to_message
from dsfast._core.router cimport Handler


cdef class ObservedHub(PluginHub):
    """A hub that tells ``observer`` about what it sends; see ``Observer`` in dsfast/handlers/observer.py."""

    cdef object observer

    def tell(self, observer):
        """Whom to tell from now on."""
        self.observer = observer

    cdef int send_msg(self, Peer peer, const Msg *m, list names=None, dict versions=None) except -1:
        cdef Message message
        if self.observer is not None and not peer.muted:
            message = to_message(m)
            if names is not None:
                message.names = names
            if versions is not None:
                message.versions = versions
            self.observer.sent(message)
        return PluginHub.send_msg(self, peer, m, names, versions)

    cdef int broadcast_msg(self, Subject subject, Peer skip, const Msg *m) except -1:
        self.tell_broadcast(subject, m)
        return PluginHub.broadcast_msg(self, subject, skip, m)

    cdef int broadcast_payload(self, Subject subject, Peer skip, const char *p, size_t n) except -1:
        cdef Msg m
        decode_msg(p, p + n, &m)
        self.tell_broadcast(subject, &m)
        return PluginHub.broadcast_payload(self, subject, skip, p, n)

    cdef int tell_broadcast(self, Subject subject, const Msg *m) except -1:
        if self.observer is not None:
            count = subject.registry.count(subject.decoded())
            if count:
                self.observer.broadcast(to_message(m), count)
        return 0


cdef class ObservedHandler(Handler):
    """A handler whose messages ``observer`` is told about before they are handled; otherwise ``inner``."""

    cdef readonly Handler inner
    cdef object observer

    def __cinit__(self, Handler inner not None, observer):
        self.inner = inner
        self.observer = observer

    cdef int handle(self, Connection c, Msg *m, const char *raw, size_t n) except -1:
        self.observer.received(to_message(m), c)
        return self.inner.handle(c, m, raw, n)

    def __getattr__(self, str name):
        return getattr(self.inner, name)
