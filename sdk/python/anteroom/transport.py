"""An asyncio transport for connections that are lent for a request at a time. It asks the loop's poller only for what could not be done at once."""

import asyncio
import socket
from typing import Any, Callable, Optional, Tuple

_FIRST = 65536  # bytes of a request that are read at once; more would be memory that is mapped and unmapped for each
_MORE = 262144
_JOINED = 16384  # bytes of a body that are copied to be sent with the head
_HIGH = 65536  # bytes unsent above which the protocol is told to pause

_LATER = (BlockingIOError, InterruptedError)


class Transport(asyncio.Transport):
    """The transport of a client's socket, which it owns, and which it closes without a shutdown.

    It begins by reading nothing: ``read`` reads what is there, and ``watch`` has the loop watch for more.
    """

    on_flushed: Optional[Callable[[], None]] = None
    """Called once all that was written is in the kernel; set it when ``get_write_buffer_size`` is not 0."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.BaseProtocol, later: Callable[["Transport"], None]
    ) -> None:
        """``later(transport)`` has ``attend`` called when all have had their turn who run before the loop polls again, and then, if need be, ``watch``."""
        super().__init__()
        sock.settimeout(0)
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol: Any = protocol
        self._later = later
        self._reading = False
        self._watched = False  # by the loop's poller, for reading
        self._closing = False
        self._ended = False  # connection_lost is on its way
        self._eof = False
        self._arranged = False  # attend is on its way
        self._gathers = False  # the next write waits for the one after it
        self._gathered = b""
        self._unsent = bytearray()  # while the loop's poller watches for room
        self._write_paused = False
        self.set_write_buffer_limits()

    def gather(self) -> None:
        """Have what is written next (a response's head) sent with what follows it (the body), or by ``attend``."""
        if self._gathered:
            self.flush()
        self._gathers = True

    def read(self) -> bool:
        """Read what is there, and go on reading. Returns whether there was anything, be it the client's end."""
        self._reading = True
        self._arrange()
        return self._receive(_FIRST)

    def attend(self) -> None:
        """Send what was gathered."""
        self._arranged = False
        if self._gathered:
            self.flush()

    def watch(self) -> None:
        """Have the loop watch for more, if the protocol reads."""
        if self._reading and not self._watched and not self._closing:
            self._watched = True
            self._loop.add_reader(self._fd, self._receive, _MORE)

    def flush(self) -> None:
        """Send what was gathered."""
        data, self._gathers, self._gathered = self._gathered, False, b""
        self.write(data)

    # What any transport has.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self._sock
        try:
            return {"sockname": self._sock.getsockname, "peername": self._sock.getpeername}.get(name, lambda: default)()
        except OSError:
            return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            self._arrange()

    def set_write_buffer_limits(self, high: Optional[int] = None, low: Optional[int] = None) -> None:
        if high is None:
            high = _HIGH if low is None else 4 * low
        self._high = high
        self._low = high // 4 if low is None else low
        if not self._high >= self._low >= 0:
            raise ValueError(f"high ({high}) must be at least low ({low}), and that at least 0")

    def get_write_buffer_limits(self) -> Tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return len(self._unsent) + len(self._gathered)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """For a connection that is no longer lent: it ends for all who have it."""
        self.flush()
        self._eof = True
        if not self._unsent and not self._closing:
            self._sock.shutdown(socket.SHUT_WR)

    def write(self, data: Any) -> None:
        if not data or self._ended:
            return
        if self._gathers:
            self._gathers, self._gathered = False, bytes(data)
            return self._arrange()
        if self._gathered:
            gathered, self._gathered = self._gathered, b""
            if len(data) > _JOINED:
                self.write(gathered)
            else:
                data = gathered + data
        if not self._unsent:
            data = self._send(data)
            if not data:
                return
            self._loop.add_writer(self._fd, self._on_writable)
        self._unsent += data
        if len(self._unsent) > self._high and not self._write_paused:
            self._write_paused = True
            self._protocol.pause_writing()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self.flush()
        self.pause_reading()
        self._closing = True
        if not self._unsent:
            self._end(None)

    def abort(self) -> None:
        self._end(None)

    def _arrange(self) -> None:
        if not self._arranged:
            self._arranged = True
            self._later(self)

    def _receive(self, size: int) -> bool:
        try:
            data = self._sock.recv(size)
        except _LATER:
            return False
        except OSError as why:
            self._end(why)
            return True
        try:
            if data:
                self._protocol.data_received(data)
            elif self._protocol.eof_received():
                self.pause_reading()
            else:
                self.close()
        except Exception as why:
            self._loop.call_exception_handler(
                {"message": "A protocol could not take what it was sent.", "exception": why, "transport": self, "protocol": self._protocol}
            )
            self._end(why)
        return True

    def _send(self, data: Any) -> Any:
        """Returns what the kernel did not take."""
        try:
            sent = self._sock.send(data)
        except _LATER:
            return data
        except OSError as why:
            self._end(why)
            return b""
        return b"" if sent == len(data) else memoryview(data)[sent:]

    def _on_writable(self) -> None:
        try:
            del self._unsent[: self._sock.send(self._unsent)]
        except _LATER:
            return
        except OSError as why:
            return self._end(why)
        if self._write_paused and len(self._unsent) <= self._low:
            self._write_paused = False
            self._protocol.resume_writing()
        if not self._unsent:
            self._on_flushed()

    def _on_flushed(self) -> None:
        self._loop.remove_writer(self._fd)
        if self._closing:
            self._end(None)
        elif self._eof:
            self._sock.shutdown(socket.SHUT_WR)
        if self.on_flushed is not None:
            self.on_flushed()

    def _end(self, why: Optional[Exception]) -> None:
        """The protocol hears of it in a turn of its own, and the descriptor is closed then: nobody is in the midst of using it."""
        if self._ended:
            return
        self._closing = self._ended = True
        self.pause_reading()
        if self._unsent:
            self._loop.remove_writer(self._fd)
            self._unsent.clear()
        self._gathered = b""
        self._loop.call_soon(self._lose, why)

    def _lose(self, why: Optional[Exception]) -> None:
        try:
            self._protocol.connection_lost(why)
        finally:
            self._sock.close()
