"""HTTP/1 requests, read off a socket strictly: what two parsers could understand in two ways is refused (RFC 9112)."""

import io
import re
import socket
import time
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple
from urllib.parse import unquote_to_bytes

MAX_HEAD = 65536
"""Bytes of a request's first line and fields; of a chunked body's trailer, too."""

MAX_FIELDS = 200
MAX_CHUNK_LINE = 256
"""Bytes of the line before a chunk, with its extensions."""

_RECEIVE = 65536
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_NAME = re.compile(_TOKEN)
_NOT_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_ABSOLUTE = re.compile(rb"https?://[^/?#]*(.*)", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")


class BadRequest(ValueError):
    """The client sent no proper request. ``status`` is the answer it is due, after which the connection ends."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class BadBody(ConnectionError):
    """The rest of the request's body will not come, or makes no sense: the app cannot have it."""


class Stream:
    """The bytes that come from a client, of which some have been read and not yet understood."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        """``timeout``: seconds within which more must come whenever more is waited for."""
        self.sock = sock
        self.timeout = timeout
        self.unread = b""

    def fill(self, deadline: Optional[float] = None) -> bool:
        """Read more, by ``deadline`` if there is one. Returns False at the client's end. Raises OSError, of which socket.timeout is one."""
        self.sock.settimeout(self.timeout if deadline is None else max(0.001, deadline - time.monotonic()))
        data = self.sock.recv(_RECEIVE)
        self.unread += data
        return bool(data)

    def take(self, count: int) -> bytes:
        """Up to ``count`` bytes, at least one. Raises BadBody at the client's end, OSError."""
        if not self.unread and not self.fill():
            raise BadBody("The client went away in the midst of its request.")
        taken, self.unread = self.unread[:count], self.unread[count:]
        return taken

    def line(self, most: int) -> bytes:
        """The next line, without its CRLF. Raises BadBody, OSError."""
        while True:
            end = self.unread.find(b"\r\n", 0, most + 2)
            if end >= 0:
                line, self.unread = self.unread[:end], self.unread[end + 2 :]
                return line
            if len(self.unread) >= most + 2:
                raise BadBody("A line of the chunked body is too long.")
            if not self.fill():
                raise BadBody("The client went away in the midst of its request.")

    def skip_empty_lines(self) -> bool:
        """Drop empty lines, which may precede a request. Returns whether anything is left."""
        while self.unread.startswith(b"\r\n"):
            self.unread = self.unread[2:]
        return bool(self.unread)


Fields = List[Tuple[str, str]]


@dataclass(frozen=True)
class Request:
    """The head of a request, and its body to be read."""

    method: str
    target: str
    path: str
    """Decoded to bytes, each of which is a character here, as WSGI has it."""
    query: str
    version: Tuple[int, int]
    fields: Fields
    """Names as they came."""
    keep_alive: bool
    """Whether the client can go on with the connection."""
    body: "Body"

    def values(self, name: str) -> List[str]:
        return _values(self.fields, name)


def read_request(stream: Stream) -> Optional[Request]:
    """The next request, None if the client has ended instead. Raises BadRequest, OSError, and socket.timeout if its head does not come
    in time."""
    head = _read_head(stream)
    return None if head is None else _parse(head, stream)


def _read_head(stream: Stream) -> Optional[bytes]:
    deadline = time.monotonic() + stream.timeout
    while True:
        stream.skip_empty_lines()
        end = stream.unread.find(b"\r\n\r\n", 0, MAX_HEAD)
        if _BARE_LF.search(stream.unread, 0, end if end >= 0 else MAX_HEAD):
            raise BadRequest(400, "A line does not end with CRLF.")
        if end >= 0:
            head, stream.unread = stream.unread[:end], stream.unread[end + 4 :]
            return head
        if len(stream.unread) >= MAX_HEAD:
            raise BadRequest(431, f"The head of the request is longer than {MAX_HEAD} bytes.")
        if not stream.fill(deadline):
            return None


def _parse(head: bytes, stream: Stream) -> Request:
    first, *lines = head.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise BadRequest(400, "The first line is no request line.")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise BadRequest(505, "Only HTTP/1 is spoken here.")
    version = (1, min(int(minor), 1))
    fields = _parse_fields(lines)
    _check_host(fields, version)
    path, query = _split_target(method, target)
    tokens = _tokens(_values(fields, "connection"))
    return Request(
        method=method.decode("ascii"),
        target=target.decode("latin-1"),
        path=unquote_to_bytes(path).decode("latin-1"),
        query=query.decode("latin-1"),
        version=version,
        fields=fields,
        keep_alive="close" not in tokens and (version == (1, 1) or "keep-alive" in tokens),
        body=_body_of(fields, version, stream),
    )


def _parse_fields(lines: List[bytes]) -> Fields:
    if len(lines) > MAX_FIELDS:
        raise BadRequest(431, f"The request has more than {MAX_FIELDS} fields.")
    return [_parse_field(line) for line in lines]


def _parse_field(line: bytes) -> Tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not _NAME.fullmatch(name) or _NOT_IN_VALUE.search(value):
        raise BadRequest(400, "A line of the head is no field.")
    return name.decode("ascii"), value.strip(b" \t").decode("latin-1")


def _check_host(fields: Fields, version: Tuple[int, int]) -> None:
    hosts = _values(fields, "host")
    if len(hosts) > 1 or (not hosts and version == (1, 1)) or not all(map(_HOST.fullmatch, hosts)):
        raise BadRequest(400, "A request must have one Host.")


def _split_target(method: bytes, target: bytes) -> Tuple[bytes, bytes]:
    if method == b"CONNECT":
        raise BadRequest(501, "This is no proxy.")
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute:
        target = absolute.group(1)
        target = target if target.startswith(b"/") else b"/" + target
    elif not (target.startswith(b"/") or (target == b"*" and method == b"OPTIONS")):
        raise BadRequest(400, "The target of the request is not a path.")
    path, _, query = target.partition(b"?")
    return path, query


def _body_of(fields: Fields, version: Tuple[int, int], stream: Stream) -> "Body":
    codings, lengths = _values(fields, "transfer-encoding"), _values(fields, "content-length")
    expects = _expects_continue(fields, version)
    if codings:
        if lengths or version == (1, 0):
            raise BadRequest(400, "The length of the body is ambiguous.")
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise BadRequest(501, "The only Transfer-Encoding known here is chunked.")
        return ChunkedBody(stream, expects)
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise BadRequest(400, "Content-Length must be one number.")
    return LengthBody(stream, expects, int(lengths[0]) if lengths else 0)


def _expects_continue(fields: Fields, version: Tuple[int, int]) -> bool:
    expectations = _values(fields, "expect")
    if version == (1, 0) or not expectations:
        return False
    if [each.lower() for each in expectations] != ["100-continue"]:
        raise BadRequest(417, "The only expectation met here is 100-continue.")
    return True


def _values(fields: Fields, name: str) -> List[str]:
    return [value for each, value in fields if each.lower() == name]


def _tokens(values: List[str]) -> List[str]:
    return [token.strip(" \t").lower() for value in values for token in value.split(",")]


class Body(io.RawIOBase):
    """A request's body, to be read to its end and not beyond. Reading raises BadBody, or socket.timeout if nothing comes in time."""

    def __init__(self, stream: Stream, expects_continue: bool) -> None:
        super().__init__()
        self._stream = stream
        self._continue_due = expects_continue
        self.failed = False
        """Whether its end cannot be reached any more."""

    @property
    def may_be_skipped(self) -> bool:
        """Whether what the app does not read is likely to come, and soon. If not, the connection cannot be kept."""
        left = self._remaining()
        return not left or (left <= MAX_HEAD and not self._continue_due and not self.failed)

    @property
    def ended(self) -> bool:
        """Whether all of it has been read."""
        return not self._remaining()

    def skip(self) -> bool:
        """Read on to the end, if that is not far. Returns whether it is reached."""
        scrap, left = bytearray(_RECEIVE), MAX_HEAD
        try:
            while self.may_be_skipped and left >= 0:
                count = self.readinto(scrap)
                if count == 0:
                    return True
                left -= count
        except OSError:
            pass
        return False

    def give_up_continue(self) -> None:
        """The response has begun: it is too late for a 100 before it."""
        self._continue_due = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.failed:
            raise BadBody("The request's body broke off before.")
        try:
            if self._continue_due and self._remaining():
                self._continue_due = False
                self._stream.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            data = self._next(len(buffer))
        except BaseException:
            self.failed = True
            raise
        buffer[: len(data)] = data
        return len(data)

    def _remaining(self) -> int:
        """Bytes to come, as far as that is known; 0 only at the end."""
        raise NotImplementedError

    def _next(self, most: int) -> bytes:
        """Some of them, none only at the end."""
        raise NotImplementedError


class LengthBody(Body):
    """A body of a length that the head has told."""

    def __init__(self, stream: Stream, expects_continue: bool, length: int) -> None:
        super().__init__(stream, expects_continue)
        self.length = length
        self._left = length

    def _remaining(self) -> int:
        return self._left

    def _next(self, most: int) -> bytes:
        if not self._left:
            return b""
        data = self._stream.take(min(most, self._left))
        self._left -= len(data)
        return data


class ChunkedBody(Body):
    """A body in chunks, without them and without the trailer."""

    def __init__(self, stream: Stream, expects_continue: bool) -> None:
        super().__init__(stream, expects_continue)
        self._chunk = 0  # bytes left of the present chunk
        self._ended = False

    def _remaining(self) -> int:
        return 0 if self._ended else max(self._chunk, 1)

    def _next(self, most: int) -> bytes:
        if not self._chunk and not self._ended:
            self._begin_chunk()
        if self._ended:
            return b""
        data = self._stream.take(min(most, self._chunk))
        self._chunk -= len(data)
        if not self._chunk and self._stream.line(0):
            raise BadBody("A chunk is longer than it says.")
        return data

    def _begin_chunk(self) -> None:
        match = _CHUNK.fullmatch(self._stream.line(MAX_CHUNK_LINE))
        if match is None:
            raise BadBody("There is no chunk where one is due.")
        self._chunk = int(match.group(1), 16)
        if not self._chunk:
            self._skip_trailer()
            self._ended = True

    def _skip_trailer(self) -> None:
        left = MAX_HEAD
        line = self._stream.line(left)
        while line:
            left -= len(line) + 2
            try:
                _parse_field(line)
            except BadRequest as why:
                raise BadBody("A line of the trailer is no field.") from why
            line = self._stream.line(max(left, 0))
