"""A bell: one thread waits for descriptors, any other rings."""

import contextlib
import os
import signal
import threading
from typing import Iterator


class Waker:
    """A pipe whose reading end becomes readable when ``wake`` is called. All methods may be called from any thread, also after ``close``."""

    def __init__(self) -> None:
        # Reentrant, for a garbage collection within wake may end in wake.
        self._lock = threading.RLock()
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._read

    def wake(self) -> None:
        # A full pipe has long been readable; a closed one has nobody left to wake.
        with self._lock, contextlib.suppress(OSError):
            os.write(self._write, b"!")

    def clear(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            os.read(self._read, 4096)

    @contextlib.contextmanager
    def rung_by_signals(self) -> Iterator[None]:
        """For the main thread: signals ring, too. A handler runs only when a wait is over, and no wait ends for a signal that comes just before it."""
        before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    def close(self) -> None:
        with self._lock:
            fds, self._read, self._write = (self._read, self._write), -1, -1
            for fd in fds:
                if fd >= 0:
                    os.close(fd)

    def __del__(self) -> None:
        self.close()
