"""Registries that tell others, and registries of plugins, behind the interface that the handlers call.

The handlers know one class, Registry, whose methods are virtual; which one a topic has is decided once, at the
start. So a registry written in Python costs nothing where it is not used (DESIGN.md section 4).
"""
from cpython.ref cimport PyObject
from libc.stdlib cimport calloc, free
from libc.stdint cimport uint32_t

from dsfast._core.connection cimport Connection
from dsfast._core.fanout cimport Hub, Peer, Registry, Sub, Subject
from dsfast._core.protocol cimport Message, Msg, decode_msg, to_message


cdef class WatchedRegistry(Registry):
    """The built-in registry, which tells watchers about every subscription."""

    cdef tuple watchers

    def __cinit__(self, *_, **__):
        self.watchers = ()

    def watch(self, watcher):
        """Tell ``watcher`` (a SubscriptionListener) too; an exception of it is passed on to who subscribes."""
        self.watchers += (watcher,)

    def unwatch(self, watcher):
        """Tell it no more; an unknown one is ignored."""
        self.watchers = tuple([item for item in self.watchers if item is not watcher])

    cdef Subject subscribe(self, Peer peer, const char *p, Py_ssize_t n, bint *fresh):
        cdef Subject subject = Registry.subscribe(self, peer, p, n, fresh)
        if fresh[0] and self.watchers:
            name = subject.decoded()
            for watcher in self.watchers:
                if subject.count == 1:
                    watcher.on_first_subscription_made(name)
                watcher.on_subscription_made(name, peer)
        return subject

    cdef int drop(self, Sub *s) except -1:
        cdef Subject subject
        cdef Peer peer
        if not self.watchers:
            return Registry.drop(self, s)
        subject, peer = <Subject>s.subject, <Peer>s.peer
        try:
            return Registry.drop(self, s)
        finally:
            name = subject.decoded()
            for watcher in self.watchers:
                watcher.on_subscription_removed(name, peer)
                if subject.count == 0:
                    watcher.on_last_subscription_removed(name)


cdef class PluginSubject(Subject):
    """A name of a topic whose registry is a plugin, with the subscribers of one moment."""

    cdef str text
    cdef list peers         # keeps alive what ``subs`` points to
    cdef Sub *block

    def __dealloc__(self):
        free(self.block)

    cdef int hold(self, object sockets) except -1:
        """Note who subscribes, where the handlers look for it."""
        cdef uint32_t i, count
        self.peers = [socket for socket in sockets if isinstance(socket, Connection)]
        count = <uint32_t>len(self.peers)
        if count == 0:
            return 0
        self.block = <Sub*>calloc(count, sizeof(Sub))
        self.subs = <Sub**>calloc(count, sizeof(Sub*))
        if self.block == NULL or self.subs == NULL:
            raise MemoryError("dsfast: out of memory")
        for i in range(count):
            self.block[i].peer = <PyObject*>self.peers[i]
            self.subs[i] = &self.block[i]
        self.count = self.cap = count
        return 0


cdef class PluginHub(Hub):
    """The hub of a server with a registry that is a plugin: that one sends what is for its subscribers."""

    cdef int broadcast_msg(self, Subject subject, Peer skip, const Msg *m) except -1:
        if type(subject) is PluginSubject:
            return (<PluginRegistry>subject.registry).publish((<PluginSubject>subject).text, skip, m)
        return Hub.broadcast_msg(self, subject, skip, m)

    cdef int broadcast_payload(self, Subject subject, Peer skip, const char *p, size_t n) except -1:
        cdef Msg m
        if type(subject) is PluginSubject:
            decode_msg(p, p + n, &m)
            return (<PluginRegistry>subject.registry).publish((<PluginSubject>subject).text, skip, &m)
        return Hub.broadcast_payload(self, subject, skip, p, n)


cdef class PluginRegistry(Registry):
    """What the handlers see of a SubscriptionRegistry of dsfast/plugin/subscriptions.py.

    A call that only asks or sends and fails is reported to ``on_fault(method, error)``; a subscription that fails
    raises, so that it is not acknowledged. Without ``choosing`` nobody looks at the subscribers of a name.
    """

    cdef readonly object plugin
    cdef object on_fault
    cdef bint choosing
    cdef Message request        # what a client is said to have sent
    cdef set provided_names

    def __cinit__(self, *_, **__):
        self.request = Message(self.topic, 0)
        self.provided_names = set()

    def stand_for(self, plugin, *, int action, on_fault, bint choosing):
        """Which plugin this is. ``action`` is what clients are said to have sent to subscribe; returns self."""
        self.plugin = plugin
        self.request.action = action
        self.on_fault = on_fault
        self.choosing = choosing
        return self

    # --- for the handlers of the core ------------------------------------------------------------------------

    cdef PluginSubject subject_of(self, const char *p, Py_ssize_t n):
        cdef PluginSubject subject = PluginSubject.__new__(PluginSubject)
        subject.set_name(p, n)
        subject.registry = self
        subject.text = p[:n].decode()
        subject.provided = subject.text in self.provided_names
        return subject

    cdef Subject find(self, const char *p, Py_ssize_t n):
        """Never None: a message may be for subscribers on other servers alone."""
        cdef PluginSubject subject = self.subject_of(p, n)
        if self.choosing:
            subject.hold(self.subscribers(subject.text))
        return subject

    cdef Subject ensure(self, const char *p, Py_ssize_t n):
        return self.find(p, n)

    cdef Subject subscribe(self, Peer peer, const char *p, Py_ssize_t n, bint *fresh):
        cdef PluginSubject subject
        fresh[0] = False
        if peer.gone or peer.hub is not self.hub:
            raise ValueError("the connection is closed or belongs to another server")
        subject = self.subject_of(p, n)
        fresh[0] = self.add(subject.text, peer)
        # The plugin may have found a provider meanwhile.
        subject.provided = subject.text in self.provided_names
        return subject

    cdef bint unsubscribe(self, Peer peer, const char *p, Py_ssize_t n) except -1:
        return self.remove(p[:n].decode(), peer)

    cdef bint holds(self, Peer peer, Subject subject) noexcept:
        return False            # whom a broadcast leaves out is the plugin's business

    cdef int publish(self, str name, Peer sender, const Msg *m) except -1:
        self.send(name, to_message(m), sender)
        return 0

    cdef int send(self, str name, Message message, Peer sender) except -1:
        try:
            self.plugin.send_to_subscribers(name, message, False, sender)
        except Exception as error:
            self.on_fault("send_to_subscribers", error)
        return 0

    # --- for handlers in Python ------------------------------------------------------------------------------

    @property
    def subscriptions(self):
        """Number of subscriptions on this node."""
        return sum([self.count(name) for name in self.names()])

    @property
    def subjects(self):
        """How many names have a subscriber on this node."""
        return len(self.names())

    def names(self):
        """All names that have a subscriber on this node."""
        try:
            return list(self.plugin.get_local_names())
        except Exception as error:
            self.on_fault("get_local_names", error)
            return []

    def has(self, str name not None):
        """Whether anybody on this node subscribes to the name."""
        try:
            return bool(self.plugin.has_local_subscribers(name))
        except Exception as error:
            self.on_fault("has_local_subscribers", error)
            return False

    def count(self, str name not None):
        """Number of subscribers of a name on this node."""
        return len(self.subscribers(name))

    def subscribers(self, str name not None):
        """The connections that subscribe to a name."""
        try:
            return list(self.plugin.get_local_subscribers(name))
        except Exception as error:
            self.on_fault("get_local_subscribers", error)
            return []

    cdef Message request_for(self, str name):
        return self.request.replace(name=name)

    def add(self, str name not None, Peer peer not None):
        """Subscribe a connection; False if it was subscribed before, or is closed. Raises what the plugin raises."""
        if peer.gone:
            return False
        return self.plugin.subscribe(name, self.request_for(name), peer, True) is not False

    def remove(self, str name not None, Peer peer not None):
        """Unsubscribe a connection; False if it was not subscribed. Raises what the plugin raises."""
        return self.plugin.unsubscribe(name, self.request_for(name), peer, True) is not False

    def remove_all(self, str name not None):
        """End all subscriptions of a name without telling anybody."""
        for peer in self.subscribers(name):
            try:
                self.remove(name, peer)
            except Exception as error:
                self.on_fault("unsubscribe", error)

    def broadcast(self, str name not None, Message message not None, Peer sender=None):
        """Send a message to all subscribers of a name except ``sender``."""
        self.send(name, message, sender)

    def set_provided(self, str name not None, bint provided):
        """Note whether an active provider publishes this name; later subscribers are told (section 5.4)."""
        if provided:
            self.provided_names.add(name)
        else:
            self.provided_names.discard(name)

    def set_listener(self, listener):
        """Not for plugins: they are given a listener by their own set_subscription_listener."""
        raise TypeError("the listener of a plugin is set at the plugin")
