"""A test double of the sidecar: one thread, one epoll, the protocol as ``handoff/PROTOCOL.md`` has it, and counters to look at.

It leaves out what hosts cannot see: limits, fairness between hosts, metrics.
"""

import array
import collections
import contextlib
import itertools
import json
import os
import select
import socket
import struct
import threading
import time

from anteroom.frame import MAGIC, VERSION, Code, Flag, ForgetReason, Frame, Type, decode

FEATURES = ("cache", "track", "address", "finish")
LINGER = 1.0
ANSWERS = {Type.PUT, Type.CLOSE, Type.DETACH, Type.NACK, Type.FINISH}


class Fault(Exception):
    def __init__(self, code, reason):
        super().__init__(reason)
        self.code = code


class Host:
    def __init__(self, sock, number):
        self.sock = sock
        self.number = number
        self.pool = None
        self.capacity = 0
        self.features = ()
        self.leases = set()
        self.draining = False
        self.unread = b""
        self.fds = collections.deque()
        self.unsent = collections.deque()

    def send(self, frame, fd=None):
        if fd is not None:
            frame = frame._replace(flags=frame.flags | Flag.FD)
        self.unsent.append((frame.encode(), None if fd is None else os.dup(fd)))
        self.flush()

    def flush(self):
        while self.unsent:
            data, fd = self.unsent[0]
            rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            try:
                sent = self.sock.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                return  # full, which no test of ours leaves so; or gone, which reading will tell
            self.unsent.popleft()
            if fd is not None:
                os.close(fd)
            if sent < len(data):
                self.unsent.appendleft((data[sent:], None))
                return

    def receive(self):
        try:
            data, control, _, _ = self.sock.recvmsg(65536, 4096, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return []
        except OSError:
            data, control = b"", []
        for _, _, rights in control:
            fds = array.array("i")
            fds.frombytes(rights)
            self.fds.extend(fds)
        if not data:
            raise EOFError
        self.unread += data
        frames = []
        frame, start = decode(self.unread)
        while frame is not None:
            if frame.flags & Flag.FD and not self.fds:
                raise Fault(Code.NO_DESCRIPTOR, f"no descriptor came with type {frame.type}")
            frames.append((frame, self.fds.popleft() if frame.flags & Flag.FD else None))
            frame, start = decode(self.unread, start)
        self.unread = self.unread[start:]
        return frames


class Listener:
    def __init__(self, number, sock, host, settings, first_byte_timeout):
        self.number = number
        self.sock = sock
        self.host = host
        self.pool = host.pool if host else settings["pool"]
        self.silent = settings.get("silent") or "close"
        self.first_byte_timeout = (settings.get("first_byte_timeout_ms") or first_byte_timeout * 1000) / 1000


class Connection:
    def __init__(self, number, sock, pool):
        self.number = number
        self.sock = sock
        self.pool = pool
        self.seq = 0
        self.state = "idle"  # idle, ready, leased, closing
        self.served = False
        self.silent = False
        self.deadline = None
        self.listener = None
        self.lessee = None
        self.holder = None  # the host that holds a descriptor
        self.sticky = None
        self.tracker = None
        self.rest = None  # of a response: file, offset, length
        self.keep_alive = 0  # milliseconds, once the rest is sent


class Sidecar:
    """``Sidecar(path)`` serves hosts at ``path`` until ``stop``. ``listen`` and ``connections`` are for tests."""

    def __init__(self, path, first_byte_timeout=10.0, keep_alive=75.0, deny_listen=False):
        self.path = path
        self.first_byte_timeout = first_byte_timeout
        self.keep_alive = keep_alive
        self.deny_listen = deny_listen
        self.counts = collections.Counter()
        self.hellos = []
        self.violations = 0
        self.refusal = ""  # the sentence for hosts that are refused before a byte of theirs is read
        self.last = False  # whether to say that there is no room to keep a connection
        self._numbers = itertools.count(1)
        self._hosts, self._listeners, self._connections, self._closing = {}, {}, {}, {}
        self._queues = collections.defaultdict(collections.deque)
        self._epoll = select.epoll()
        self._things = {}
        self._stopping = False
        self._calls = collections.deque()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(path)
        self._sock.listen(64)
        self._sock.setblocking(False)
        self._watch(self._sock, self._on_host)
        self._watch(self._bell, self._on_bell)
        self._thread = threading.Thread(target=self._run, name="fake sidecar", daemon=True)
        self._thread.start()

    # For tests, from any thread.

    def stop(self, remove=True):
        """Die, as kill -9 would have it: every descriptor closes, nobody is told."""
        self._call(self._stop)
        self._thread.join(10)
        assert not self._thread.is_alive()
        if remove:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    def listen(self, sock, pool="default", **settings):
        """Accept on ``sock``, a listener of the sidecar's own."""
        sock = sock.dup()
        self._call(lambda: self._add_listener(sock, None, dict(settings, pool=pool)))

    def tell_hosts(self, frame):
        self._call(lambda: [host.send(frame) for host in self._hosts.values()])

    def ask_to_leave(self):
        self._call(lambda: [host.send(Frame(Type.DRAINING)) for host in self._hosts.values()])

    def states(self):
        return self._call(lambda: collections.Counter(each.state for each in self._connections.values()))

    def hosts(self):
        return self._call(lambda: len([host for host in self._hosts.values() if host.pool is not None]))

    def listeners(self):
        return self._call(lambda: len(self._listeners))

    def take_back(self, reason=ForgetReason.OPERATOR):
        """Take every lease back from its host."""
        self._call(lambda: [self._take_back(each, reason) for each in list(self._connections.values()) if each.state == "leased"])

    @contextlib.contextmanager
    def standing_still(self):
        """What happens meanwhile meets the loop all at once."""
        stands, go_on = threading.Event(), threading.Event()
        self._calls.append(lambda: (stands.set(), go_on.wait(10)))
        self._ringer.send(b"!")
        assert stands.wait(10)
        try:
            yield
        finally:
            go_on.set()

    def _call(self, function):
        done, result = threading.Event(), []
        self._calls.append(lambda: (result.append(function()), done.set()))
        self._ringer.send(b"!")
        assert done.wait(10), "the fake sidecar hangs or has died"
        return result[0]

    # The loop.

    def _run(self):
        try:
            while not self._stopping:
                # One at a time: the number of a descriptor that a handler closes may be another's when the next event is looked at.
                for fd, _ in self._epoll.poll(0.01, 1):
                    self._things[fd]()
                self._expire(time.monotonic())
        finally:
            for fd in (self._epoll, self._bell, self._ringer, self._sock):
                fd.close()

    def _watch(self, sock, handler, events=select.EPOLLIN):
        self._things[sock.fileno()] = handler
        self._epoll.register(sock.fileno(), events)

    def _unwatch(self, sock):
        if self._things.pop(sock.fileno(), None):
            self._epoll.unregister(sock.fileno())

    def _on_bell(self):
        self._bell.recv(4096)
        while self._calls:
            self._calls.popleft()()

    def _stop(self):
        self._stopping = True
        for each in [*self._hosts.values(), *self._listeners.values(), *self._connections.values(), *self._closing.values()]:
            each.sock.close()
        for each in self._connections.values():
            if each.rest:
                os.close(each.rest[0])

    # Hosts.

    def _on_host(self):
        sock, _ = self._sock.accept()
        if self.refusal:
            sock.sendall(Frame(Type.REFUSE, a=Code.NOT_ALLOWED, payload=self.refusal.encode()).encode())
            sock.close()
            self.counts["refused"] += 1
            return
        host = Host(sock, next(self._numbers))
        self._hosts[host.number] = host
        self._watch(sock, lambda: self._read_host(host))

    def _read_host(self, host):
        try:
            for frame, fd in host.receive():
                self.counts[Type(frame.type).name] += 1
                self._on_frame(host, frame, fd)
        except EOFError:
            self._lose(host)
        except Fault as why:
            host.send(Frame(Type.ERROR if host.pool else Type.REFUSE, a=why.code, payload=str(why).encode()))
            self._lose(host)
        if host.draining and not host.leases and host.number in self._hosts:
            self._lose(host)

    def _on_frame(self, host, frame, fd):
        if host.pool is None:
            return self._on_hello(host, frame)
        if frame.type in ANSWERS:
            return self._on_answer(host, frame, fd)
        if frame.type == Type.LISTEN:
            self._on_listen(host, frame, fd)
        elif frame.type == Type.UNLISTEN:
            self._remove_listener(self._listeners[frame.a], frame.seq)
        elif frame.type == Type.ADOPT:
            conn = self._add_connection(socket.socket(fileno=fd), host.pool)
            host.send(Frame(Type.ADOPTED, seq=frame.seq, conn=conn.number))
            conn.tracker, conn.served = host, True
            self._idle(conn, frame.a)
        elif frame.type == Type.DROPPED:
            conn = self._connections.get(frame.conn)
            if conn and conn.holder is host:
                conn.holder = None
        elif frame.type == Type.CAPACITY:
            host.capacity = frame.a
            self._serve_queue(host.pool)
        elif frame.type == Type.DRAIN:
            self._on_drain(host)
        elif frame.type != Type.PONG:
            raise Fault(Code.BAD_FRAME, f"a host may not say type {frame.type}")

    def _on_hello(self, host, frame):
        if frame.type != Type.HELLO or frame.a & 0xFFFFFFFF != MAGIC:
            raise Fault(Code.BAD_MAGIC, "the first frame must be HELLO")
        if frame.a >> 32 != VERSION:
            raise Fault(Code.BAD_VERSION, "only version 1 is spoken here")
        hello = json.loads(frame.payload)
        self.hellos.append(hello)
        host.pool = hello["pool"] or f"private-{host.number}"
        host.private = not hello["pool"]
        host.capacity = hello["capacity"]
        host.features = [name for name in hello.get("features", ()) if name in FEATURES]
        welcome = {"host": host.number, "pool": host.pool, "capacity": host.capacity, "features": host.features, "listeners": []}
        host.send(Frame(Type.WELCOME, a=VERSION, payload=json.dumps(dict(welcome, keep_alive_timeout_ms=75000, epoch="fake")).encode()))
        self._serve_queue(host.pool)

    def _on_listen(self, host, frame, fd):
        sock = socket.socket(fileno=fd)
        if self.deny_listen:
            sock.close()
            return host.send(Frame(Type.DENIED, seq=frame.seq, a=Code.AT_LIMIT, payload=b"no listener more"))
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise Fault(Code.BAD_DESCRIPTOR, "not a listening socket")
        listener = self._add_listener(sock, host, json.loads(frame.payload))
        host.send(Frame(Type.LISTENING, seq=frame.seq, a=listener.number))

    def _add_listener(self, sock, host, settings):
        sock.setblocking(False)
        if settings.get("backlog"):
            sock.listen(settings["backlog"])
        listener = Listener(next(self._numbers), sock, host, settings, self.first_byte_timeout)
        self._listeners[listener.number] = listener
        self._watch(sock, lambda: self._accept(listener))
        return listener

    def _remove_listener(self, listener, tag=0):
        del self._listeners[listener.number]
        self._unwatch(listener.sock)
        listener.sock.close()
        listener.host.send(Frame(Type.UNLISTENED, seq=tag, a=listener.number))

    def _on_drain(self, host):
        host.draining = True
        self._close_listeners(host)
        host.send(Frame(Type.DRAINING, a=len(host.leases)))
        if host.private:
            self._close_pool(host.pool)

    def _close_listeners(self, host):
        for listener in [each for each in self._listeners.values() if each.host is host]:
            self._remove_listener(listener)

    def _close_pool(self, pool):
        for conn in [each for each in self._connections.values() if each.pool == pool and each.state not in ("leased", "finishing")]:
            self._close(conn, ForgetReason.STOPPED)

    def _lose(self, host):
        del self._hosts[host.number]
        self._unwatch(host.sock)
        host.pool = host.pool or ""
        self._close_listeners(host)
        for conn in list(self._connections.values()):
            conn.tracker = None if conn.tracker is host else conn.tracker
            conn.holder = None if conn.holder is host else conn.holder
            if conn.sticky is host:
                self._close(conn)
            elif conn.lessee is host:
                conn.lessee = None
                self.counts["returned"] += 1
                self._on_readable(conn) if _has_unread(conn.sock) else self._close(conn)
        if getattr(host, "private", False):
            self._close_pool(host.pool)
        host.sock.close()

    # Connections.

    def _accept(self, listener):
        try:
            sock, _ = listener.sock.accept()
        except BlockingIOError:
            return
        except OSError:
            return self._unwatch(listener.sock)  # its host has shut it down
        self.counts["accepted"] += 1
        conn = self._add_connection(sock, listener.pool)
        conn.listener = listener
        return self._arm(conn, listener.first_byte_timeout)

    def _add_connection(self, sock, pool):
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn = Connection(next(self._numbers), sock, pool)
        self._connections[conn.number] = conn
        return conn

    def _arm(self, conn, seconds):
        conn.state = "idle"
        conn.deadline = time.monotonic() + seconds
        self._watch(conn.sock, lambda: self._on_readable(conn), select.EPOLLIN | select.EPOLLRDHUP)

    def _on_readable(self, conn):
        self._unwatch(conn.sock)
        try:
            gone = not conn.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            gone = True
        if gone:
            self._close(conn, ForgetReason.HUNG_UP)
        else:
            self._ready(conn)

    def _ready(self, conn):
        if conn.pool.startswith("private-") and not any(host.pool == conn.pool for host in self._hosts.values()):
            return self._close(conn, ForgetReason.STOPPED)
        conn.state, conn.deadline = "ready", None
        self._queues[conn.pool].append(conn)
        return self._serve_queue(conn.pool)

    def _serve_queue(self, pool):
        queue = self._queues[pool]
        while queue:
            conn = queue[0]
            host = self._choose(conn)
            if conn.state == "ready" and host is None:
                return
            queue.popleft()
            if conn.state == "ready":
                self._lease(conn, host)

    def _choose(self, conn):
        able = [h for h in self._hosts.values() if h.pool == conn.pool and not h.draining and len(h.leases) < h.capacity]
        if conn.sticky:
            able = [host for host in able if host is conn.sticky]
        return min(able, key=lambda host: len(host.leases), default=None)

    def _lease(self, conn, host):
        conn.seq += 1
        conn.state, conn.lessee = "leased", host
        if conn.tracker not in (None, host) or conn.holder not in (None, host):
            (conn.holder or conn.tracker).send(Frame(Type.FORGET, conn=conn.number, a=ForgetReason.MOVED))
            conn.holder = None
        flags = (0 if conn.served else Flag.FRESH) | (Flag.SILENT if conn.silent else 0) | (Flag.LAST if self.last else 0)
        host.leases.add(conn.number)
        self.counts["leases"] += 1
        self.counts["leases with descriptor"] += conn.holder is not host
        host.send(Frame(Type.LEASE, flags, conn.seq, conn.number), None if conn.holder is host else conn.sock.fileno())

    def _on_answer(self, host, frame, fd):
        conn = self._connections.get(frame.conn)
        if conn is None or conn.state != "leased" or conn.seq != frame.seq:
            self.counts["late answers"] += 1
            if fd is not None:
                os.close(fd)
            return
        if conn.lessee is not host:
            raise Fault(Code.NOT_YOURS, f"connection {frame.conn} is leased to another host")
        host.leases.discard(conn.number)
        conn.lessee, conn.served, conn.silent = None, True, False
        self.counts["requests"] += 1 if frame.type == Type.FINISH else frame.b
        if frame.type == Type.PUT:
            self._on_put(host, conn, frame)
        elif frame.type == Type.CLOSE:
            conn.holder = conn.tracker = None
            self.counts[f"close {frame.a}"] += 1
            self._close(conn)
        elif frame.type == Type.FINISH:
            self._on_finish(host, conn, frame, fd)
        elif frame.type == Type.DETACH:
            del self._connections[conn.number]
            conn.sock.close()
        else:
            conn.holder = None
            conn.served = conn.seq > 1
            self._ready(conn)
        self._serve_queue(host.pool)

    def _on_put(self, host, conn, frame):
        conn.sticky = host if frame.flags & Flag.STICKY else None
        conn.holder = host if conn.sticky or "cache" in host.features else None
        conn.tracker = host if "track" in host.features else None
        if conn.sock.getblocking() or os.get_blocking(conn.sock.fileno()):
            self.violations += 1
            conn.sock.setblocking(False)
        if host.draining and host.private:
            return self._close(conn, ForgetReason.STOPPED)
        return self._idle(conn, frame.a)

    def _on_finish(self, host, conn, frame, fd):
        if "finish" not in host.features:
            raise Fault(Code.NOT_AGREED, "FINISH was not agreed")
        ends = frame.flags & Flag.CLOSE
        conn.holder = host if "cache" in host.features and not ends else None
        conn.tracker = host if "track" in host.features and not ends else None
        conn.state, conn.rest = "finishing", [fd, frame.a, frame.b]
        conn.keep_alive = json.loads(frame.payload or "{}").get("keep_alive_timeout_ms", 0)
        self.counts["finished bytes"] += frame.b
        self._watch(conn.sock, lambda: self._send_rest(host, conn, ends), select.EPOLLOUT)

    def _send_rest(self, host, conn, ends):
        file, offset, left = conn.rest
        try:
            sent = os.sendfile(conn.sock.fileno(), file, offset, left)
        except BlockingIOError:
            return
        except OSError:
            sent, left, ends = 0, 0, True
        conn.rest = [file, offset + sent, left - sent]
        if conn.rest[2] <= 0:
            self._unwatch(conn.sock)
            os.close(file)
            conn.rest = None
            if ends or host.draining and host.private:
                self._close(conn, ForgetReason.STOPPED)
            else:
                self._idle(conn, conn.keep_alive)

    def _idle(self, conn, milliseconds):
        self.counts[f"kept {milliseconds} ms"] += 1
        self._arm(conn, milliseconds / 1000 or self.keep_alive)

    def _take_back(self, conn, reason):
        host, conn.lessee = conn.lessee, None
        host.leases.discard(conn.number)
        host.send(Frame(Type.FORGET, conn=conn.number, a=reason))
        conn.holder = conn.tracker = None
        self._close(conn)
        self._serve_queue(host.pool)

    def _expire(self, now):
        for conn in [each for each in self._connections.values() if each.deadline is not None and each.deadline <= now]:
            self._unwatch(conn.sock)
            if not conn.served and conn.listener and conn.listener.silent == "lease":
                conn.silent = True
                self._ready(conn)
            else:
                self._close(conn, ForgetReason.EXPIRED)
        for conn in [each for each in self._closing.values() if each.deadline <= now]:
            self._end(conn)

    def _close(self, conn, reason=None):
        """Shut down for writing, and let the peer finish: a reset must not overtake the response."""
        self._connections.pop(conn.number, None)
        self._unwatch(conn.sock)
        teller = conn.holder or conn.tracker
        if teller and reason:
            self.counts[f"forget {reason}"] += 1
            teller.send(Frame(Type.FORGET, conn=conn.number, a=reason))
        conn.state, conn.deadline = "closing", time.monotonic() + LINGER
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            conn.sock.close()
            return
        self._closing[conn.number] = conn
        self._watch(conn.sock, lambda: self._drain(conn))

    def _drain(self, conn):
        try:
            if conn.sock.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end(conn)

    def _end(self, conn):
        self._closing.pop(conn.number, None)
        self._unwatch(conn.sock)
        conn.sock.close()


def _has_unread(sock):
    try:
        return len(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)) > 0
    except OSError:
        return False


def reset(sock):
    """Close so that the peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
