"""System calls that cannot wait, made without giving up the interpreter's lock.

Python gives it up for each system call. Another thread that waits for it then takes it, and the call, once it has returned, waits for that
thread: so threads take turns at each system call of a request. A call that cannot wait is over sooner than such a switch.
"""

import os
import socket
import struct
from typing import Any, List

try:
    import ctypes

    _libc = ctypes.PyDLL(None, use_errno=True)
    _send, _recv, _recvmsg = _libc.send, _libc.recv, _libc.recvmsg
except (ImportError, OSError, AttributeError):  # an interpreter without it: the calls are made as ever
    KEEPS = False
else:
    KEEPS = True
    _send.argtypes = ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
    _recv.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    _recvmsg.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_int
    _send.restype = _recv.restype = _recvmsg.restype = ctypes.c_ssize_t

    class _Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    class _Header(ctypes.Structure):
        """struct msghdr of recvmsg(2)."""

        _fields_ = [
            ("name", ctypes.c_void_p),
            ("namelen", ctypes.c_uint),
            ("vectors", ctypes.POINTER(_Vector)),
            ("count", ctypes.c_size_t),
            ("control", ctypes.c_void_p),
            ("controllen", ctypes.c_size_t),
            ("flags", ctypes.c_int),
        ]


LONG = 65536
"""Bytes beyond which a call takes so long that other threads had better go on meanwhile."""

_CMSG = struct.Struct("@Nii")
_RECEIVE_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def can_send(data: Any) -> bool:
    """Whether ``send`` is for this."""
    return KEEPS and type(data) is bytes and len(data) <= LONG


def send(fd: int, data: bytes) -> int:
    """Send what fits. Raises OSError, of which BlockingIOError is one."""
    sent = _send(fd, data, len(data), _SEND_FLAGS)
    if sent < 0:
        raise _error()
    return int(sent)


def recv_into(fd: int, buffer: Any) -> int:
    """Receive what is there, into a bytearray or the like. Raises OSError, of which BlockingIOError is one."""
    received = _recv(fd, ctypes.addressof(ctypes.c_char.from_buffer(buffer)), len(buffer), socket.MSG_DONTWAIT)
    if received < 0:
        raise _error()
    return int(received)


class Receiver:
    """Receives messages of up to ``size`` bytes and one descriptor, as ``socket.recvmsg`` does. For one thread at a time, and not for the main thread: if a
    signal handler raises, a descriptor may be lost.
    """

    def __init__(self, size: int, control: int) -> None:
        self._data = ctypes.create_string_buffer(size)
        self._control = ctypes.create_string_buffer(control)
        self._vector = _Vector(ctypes.addressof(self._data), size)
        self._header = _Header(None, 0, ctypes.pointer(self._vector), 1, ctypes.addressof(self._control), control, 0)
        self._reference = ctypes.byref(self._header)
        self._room = control

    def receive(self, fd: int) -> Any:
        """Raises OSError, of which BlockingIOError is one."""
        header = self._header
        header.controllen = self._room
        count = _recvmsg(fd, self._reference, _RECEIVE_FLAGS)
        if count < 0:
            raise _error()
        length = header.controllen
        return self._data[:count], _ancillary(self._control[:length]) if length else (), header.flags, None


def _ancillary(data: bytes) -> Any:
    """The messages of cmsg(3)."""
    found: List[Any] = []
    start = 0
    while start + _CMSG.size <= len(data):
        length, level, kind = _CMSG.unpack_from(data, start)
        found.append((level, kind, data[start + _CMSG.size : start + length]))
        start += max(socket.CMSG_SPACE(length - _CMSG.size), _CMSG.size)
    return found


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
