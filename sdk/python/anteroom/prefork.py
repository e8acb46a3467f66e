"""A master process that keeps a number of worker processes running."""

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any, Callable, Dict, List, NoReturn, Optional

from .backoff import Backoff
from .errors import AnteroomError

GRACE = 30.0
"""Seconds a worker that was asked to leave may take for the requests it holds; then it is killed."""

STABLE = 5.0
"""Seconds a worker must have lived for its successor, after its death, to start without much delay."""

EXIT_UNUSABLE = 3
"""A worker's exit status if it cannot serve at all, because there is no such app. If the first ones end so, so does the master."""

logger = logging.getLogger("anteroom.master")

_ATTACHED = b"a"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU)


class Unusable(Exception):
    """There is no such app. The message says what to do."""


class Supervision:
    """A worker's side of the tie to its master."""

    def __init__(self, channel: Optional[socket.socket] = None) -> None:
        self._channel = channel
        if channel is not None:
            threading.Thread(target=self._outlive_nobody, name="anteroom master watch", daemon=True).start()

    def attached(self) -> None:
        """Tell the master that the sidecar has welcomed this worker, so that the one it replaces may leave. Never raises."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.send(_ATTACHED, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _outlive_nobody(self) -> None:
        """Leave in good order when the master has gone, which its end of the channel tells."""
        with contextlib.suppress(OSError):
            self._channel.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)


Work = Callable[[Supervision], None]


class _Worker:
    """A worker process, seen from the master."""

    def __init__(self, pid: int, channel: socket.socket, replaces: "Optional[_Worker]") -> None:
        self.pid = pid
        self.channel = channel
        self.started = time.monotonic()
        self.replaces = replaces
        """The one that is to leave when this one is attached."""
        self.kill_at: Optional[float] = None
        """When it is killed, by time.monotonic(); set once it was asked to leave."""

    def leave(self, grace: float) -> None:
        if self.kill_at is None:
            self.kill_at = time.monotonic() + grace
            self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Master:
    """Keeps ``wanted`` processes running, each of which calls ``work`` once and leaves on SIGTERM.

    SIGTERM and SIGINT: all leave, and so does the master; a second one kills them. SIGHUP: each worker is replaced by a new one, and
    leaves when that one is attached. SIGTTIN and SIGTTOU: one worker more, one less. A worker that dies is replaced, with growing delays
    if it happens again and again.
    """

    def __init__(self, work: Work, wanted: int, grace: float = GRACE) -> None:
        self._work = work
        self._wanted = wanted
        self._grace = grace
        self._workers: Dict[int, _Worker] = {}
        self._backoff = Backoff()
        self._start_at = 0.0
        self._to_replace: List[_Worker] = []
        self._proven = False  # whether a worker has ever served
        self._leaving = False
        self._status = 0

    def run(self) -> int:
        """Returns the exit status, once all workers have left."""
        with self._signals() as signals:
            logger.info("pid %d keeps %d workers", os.getpid(), self._wanted)
            while self._workers or not self._leaving:
                self._populate()
                self._wait(signals)
                self._reap()
                self._kill_overdue()
        return self._status

    @contextlib.contextmanager
    def _signals(self):
        """The signals as bytes on a socket, so that one wait hears all."""
        hears, rings = socket.socketpair()
        with hears, rings:
            hears.setblocking(False)
            rings.setblocking(False)
            before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
            wakeup = signal.set_wakeup_fd(rings.fileno(), warn_on_full_buffer=False)
            try:
                yield hears
            finally:
                signal.set_wakeup_fd(wakeup)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _wait(self, signals: socket.socket) -> None:
        poll = select.poll()
        poll.register(signals, select.POLLIN)
        channels = {worker.channel.fileno(): worker for worker in self._workers.values() if worker.channel.fileno() >= 0}
        for fd in channels:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(self._patience()):
            if fd in channels:
                self._hear(channels[fd])
            else:
                for number in signals.recv(4096):
                    self._on_signal(number)

    def _patience(self) -> Optional[float]:
        """Milliseconds until there is something to do."""
        dues = [worker.kill_at for worker in self._workers.values() if worker.kill_at is not None]
        if self._missing() > 0:
            dues.append(self._start_at)
        return max(0.0, min(dues) - time.monotonic()) * 1000 + 1 if dues else None

    # Workers.

    def _staying(self) -> List[_Worker]:
        return [worker for worker in self._workers.values() if worker.kill_at is None and worker.replaces is None]

    def _missing(self) -> int:
        return 0 if self._leaving else self._wanted - len(self._staying())

    def _populate(self) -> None:
        missing = self._missing()
        if missing > 0 and time.monotonic() >= self._start_at:
            for _ in range(missing):
                self._start()
        for worker in self._staying()[: max(0, -missing)]:
            worker.leave(self._grace)

    def _start(self, replaces: Optional[_Worker] = None) -> None:
        ours, theirs = socket.socketpair()
        # A signal must not reach the child while it still has the master's handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._become_worker(theirs, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        ours.setblocking(False)
        self._workers[pid] = _Worker(pid, ours, replaces)

    def _become_worker(self, channel: socket.socket, signals: Any) -> NoReturn:
        """Never returns. What this process has of the master's is dropped first: a master's death must be seen by all of its workers."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the master says what is to be done
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            for worker in self._workers.values():
                worker.channel.close()
            self._work(Supervision(channel))
            status = 0
        except Unusable as why:
            logger.error("%s", why, exc_info=why.__cause__)
            status = EXIT_UNUSABLE
        except AnteroomError as why:
            logger.error("%s", why)
        except SystemExit as why:
            status = why.code if isinstance(why.code, int) else 0 if why.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _hear(self, worker: _Worker) -> None:
        """A worker is attached, or has closed its end: it is about to end."""
        try:
            said = worker.channel.recv(64)
        except OSError:
            said = b""
        if not said:
            worker.channel.close()
            return
        self._proven = True
        replaced, worker.replaces = worker.replaces, None
        if replaced is not None:
            replaced.leave(self._grace)
            self._replace_next()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(-1, os.WNOHANG)
            while pid:
                worker = self._workers.pop(pid, None)
                if worker is not None:
                    self._bury(worker, os.waitstatus_to_exitcode(status))
                pid, status = os.waitpid(-1, os.WNOHANG)

    def _bury(self, worker: _Worker, code: int) -> None:
        worker.channel.close()
        if worker.kill_at is not None:
            return
        logger.warning("worker %d has ended with %s", worker.pid, f"status {code}" if code >= 0 else signal.Signals(-code).name)
        if code == EXIT_UNUSABLE and not self._proven and worker.replaces is None:
            self._status = EXIT_UNUSABLE
            self._leave()
        elif worker.replaces is not None:
            logger.error("worker %d stays, for its successor could not attach; send SIGHUP to try again", worker.replaces.pid)
            self._to_replace.clear()
        else:
            self._delay_next(worker)
            self._promote_successor(worker)

    def _promote_successor(self, dead: _Worker) -> None:
        """A worker has died while it was being replaced: there is nobody to leave any more."""
        for worker in self._workers.values():
            if worker.replaces is dead:
                worker.replaces = None
                self._replace_next()
                return

    def _delay_next(self, worker: _Worker) -> None:
        if time.monotonic() > worker.started + STABLE:
            self._backoff.reset()
        self._start_at = time.monotonic() + self._backoff.delay()

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.kill_at is not None and worker.kill_at <= now:
                logger.warning("worker %d did not leave within %g s and is killed", worker.pid, self._grace)
                worker.signal(signal.SIGKILL)
                worker.kill_at = now + 1

    # Signals.

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._leaving:
                self._kill_all()
            self._leave()
        elif number == signal.SIGHUP and not self._leaving:
            self._roll()
        elif number == signal.SIGTTIN:
            self._wanted += 1
        elif number == signal.SIGTTOU:
            self._wanted = max(1, self._wanted - 1)

    def _leave(self) -> None:
        self._leaving = True
        for worker in self._workers.values():
            worker.leave(self._grace)

    def _kill_all(self) -> None:
        for worker in self._workers.values():
            worker.signal(signal.SIGKILL)

    def _roll(self) -> None:
        """Replace the workers one by one. If this is under way, those that are still to come, and those that have come, get their turn."""
        logger.info("replacing %d workers", self._wanted)
        idle = not any(worker.replaces for worker in self._workers.values())
        self._to_replace = self._staying()
        if idle:
            self._replace_next()

    def _replace_next(self) -> None:
        while self._to_replace and not self._leaving:
            worker = self._to_replace.pop(0)
            if worker.pid in self._workers and worker.kill_at is None:
                return self._start(replaces=worker)


def run(work: Work, workers: int, grace: float = GRACE) -> int:
    """Run ``work`` in that many processes; with 0, in this one. Returns the exit status."""
    if workers:
        return Master(work, workers, grace).run()
    try:
        work(Supervision())
    except (Unusable, AnteroomError) as why:
        logger.error("%s", why)
        return EXIT_UNUSABLE if isinstance(why, Unusable) else 1
    return 0
