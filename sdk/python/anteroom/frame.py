"""The frames of the handoff protocol, as bytes. ``handoff/PROTOCOL.md`` is the specification."""

import enum
import struct
from typing import NamedTuple, Optional, Tuple

VERSION = 1
MAGIC = int.from_bytes(b"ANTR", "little")
HEADER = struct.Struct("<BBHIQQQ")
MAX_PAYLOAD = 8192
MAX_CONN = 1 << 53
MAX_CAPACITY = 4096
MAX_NAME = 64
MAX_AGENT = 128
MAX_MILLISECONDS = 7 * 24 * 3600 * 1000

_FIRST_CRITICAL = 0x80


class Type(enum.IntEnum):
    """What a frame means. Below 0x20 hosts speak, from there on the sidecar."""

    HELLO = 0x01
    PUT = 0x02
    CLOSE = 0x03
    DETACH = 0x04
    NACK = 0x05
    ADOPT = 0x06
    LISTEN = 0x07
    UNLISTEN = 0x08
    FINISH = 0x09
    CAPACITY = 0x0A
    DROPPED = 0x0B
    DRAIN = 0x0C  # DRAINING, said by the host
    PONG = 0x0D

    WELCOME = 0x21
    REFUSE = 0x22
    LEASE = 0x23
    FORGET = 0x24
    ADOPTED = 0x25
    LISTENING = 0x26
    UNLISTENED = 0x27
    DRAINING = 0x28  # DRAINING, said by the sidecar
    PING = 0x29
    ERROR = 0x2A
    DENIED = 0x2B


# The sets of bits and codes below are IntEnum, not IntFlag: combining them yields plain integers, which is many times faster.


class Flag(enum.IntEnum):
    """The bits of a frame's flags."""

    FD = 0x01
    FRESH = 0x02
    LAST = 0x04
    SILENT = 0x08
    STICKY = 0x10
    CLOSE = 0x20


class Code(enum.IntEnum):
    """Why the sidecar refuses, denies or ends something."""

    BAD_FRAME = 1
    BAD_MAGIC = 2
    BAD_VERSION = 3
    BAD_PAYLOAD = 4
    HELLO_TWICE = 5
    HELLO_LATE = 6
    TOO_LONG = 7
    NO_DESCRIPTOR = 8
    STRAY_DESCRIPTOR = 9
    BAD_DESCRIPTOR = 10
    NOT_YOURS = 11
    AT_LIMIT = 12
    TOO_SLOW = 13
    NOT_ALLOWED = 14
    STOPPING = 15
    OUT_OF_DESCRIPTORS = 16
    NOT_AGREED = 17
    NOT_ANSWERING = 18


class CloseReason(enum.IntEnum):
    """Why a host ends a connection."""

    DONE = 0
    CLIENT = 1
    TOO_SLOW = 2
    APP = 3
    OVERLOAD = 4


class NackReason(enum.IntEnum):
    """Why a host cannot take a lease."""

    NO_DESCRIPTOR = 1
    UNKNOWN = 2
    OVERLOAD = 3


class ForgetReason(enum.IntEnum):
    """Why a connection is no longer the host's."""

    MOVED = 1
    EXPIRED = 2
    HUNG_UP = 3
    EVICTED = 4
    OPERATOR = 5
    STOPPED = 6
    FAILED = 7


def code_name(code: int) -> str:
    """The name of a code of REFUSE, ERROR or DENIED; also of one that only a later version knows."""
    try:
        return Code(code).name
    except ValueError:
        return f"code {code}"


class BadFrame(ValueError):
    """Bytes that are no frame. Where the next frame begins is unknown, so this is final for a stream."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Frame(NamedTuple):
    """One message, without the descriptor that may come with it. ``type`` may be a number that ``Type`` does not have."""

    type: int
    flags: int = 0
    seq: int = 0
    conn: int = 0
    a: int = 0
    b: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """The frame's bytes. Raises ValueError if the payload is too long, struct.error if a field is out of range."""
        if len(self.payload) > MAX_PAYLOAD:
            raise ValueError(f"a payload of {len(self.payload)} bytes, {MAX_PAYLOAD} are allowed")
        return HEADER.pack(self.type, self.flags, len(self.payload), self.seq, self.conn, self.a, self.b) + self.payload


def decode(data: bytes, start: int = 0) -> Tuple[Optional[Frame], int]:
    """Read the frame that begins at ``start``. Returns it and where the next one begins, or None and ``start`` if it is not all there.

    Raises BadFrame as soon as the header shows that the frame cannot be taken.
    """
    body = start + HEADER.size
    if len(data) < body:
        return None, start
    type_, flags, length, seq, conn, a, b = HEADER.unpack_from(data, start)
    if type_ >= _FIRST_CRITICAL:
        raise BadFrame(Code.BAD_FRAME, f"a frame of type 0x{type_:02x}, which is unknown here and may not be ignored")
    if length > MAX_PAYLOAD:
        raise BadFrame(Code.TOO_LONG, f"a frame with a payload of {length} bytes, {MAX_PAYLOAD} are allowed")
    end = body + length
    if len(data) < end:
        return None, start
    return Frame(type_, flags, seq, conn, a, b, data[body:end]), end
