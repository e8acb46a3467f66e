"""A host for asyncio::

    async def answer(lease):
        loop = asyncio.get_running_loop()
        with lease.socket() as sock:
            sock.setblocking(False)
            await loop.sock_recv(sock, 65536)  # a server would parse this
            await loop.sock_sendall(sock, b"HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nhello\\n")
            lease.put()

    asyncio.run(anteroom.aio.serve(answer, capacity=100))
"""

import asyncio
import collections
import contextlib
import logging
import os
import signal
import time
import weakref
from typing import Any, Awaitable, Callable, Deque, Iterable, List, Optional, Set

from . import errors
from .client import WELCOME_TIMEOUT, Client
from .complaints import Complaints
from .events import Attached, Detached
from .frame import CloseReason, NackReason
from .lease import Lease

__all__ = ["Driver", "Host", "attach", "serve"]

GRACE = 30.0
"""Seconds that leaving may take; then the host hangs up."""

logger = logging.getLogger("anteroom.aio")


class Driver:
    """Has a loop do what a ``Client`` needs, and tells the leases and events of each turn to ``hear``, in order. For the loop's thread only.

    ``hear`` must not raise.
    """

    def __init__(self, client: Client, hear: Callable[[List[Any]], None]) -> None:
        self.client = client
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._link: Any = None
        # The client may close the link at any answer, and its number may then be another's. A duplicate is closed only after the loop
        # has let go of it.
        self._watched = -1
        self._writing = False
        self._timer: Optional[asyncio.TimerHandle] = None
        self._changed = asyncio.Event()
        self._closed = False

    def start(self) -> None:
        """Attach, and attach again whenever the link is lost."""
        _drivers.add(self)
        self._loop.add_reader(self.client.waker.fileno(), self._on_bell)
        self._turn()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something has happened that makes ``condition`` true, or ``close`` was called."""
        while not (condition() or self._closed):
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """Hang up at once. Leases that are out can still be served, not put. Never raises."""
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self.client.waker.fileno())
        self.client.close()
        self._changed.set()

    def _on_bell(self) -> None:
        self.client.waker.clear()
        self._turn()

    def _turn(self) -> None:
        if self._closed:
            return
        events = self.client.turn()
        if events:
            self._hear(events)
        if not self._closed:
            self._follow()
        self._changed.set()

    def _follow(self) -> None:
        """Wait for the client's present link, for what it wants, and for the time it names."""
        link = self.client.link
        if link is not self._link:
            self._unwatch()
            self._watch(link)
        if self._watched >= 0 and self.client.wants_write != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._watched, self._turn)
            else:
                self._loop.remove_writer(self._watched)
        self._set_timer(self.client.due)

    def _watch(self, link: Any) -> None:
        self._link = link
        if link is None or link.fileno() < 0:
            return
        try:
            self._watched = os.dup(link.fileno())
        except OSError:  # out of descriptors: the next turn finds the link closed, and attaches later
            return link.close()
        self._loop.add_reader(self._watched, self._turn)

    def _unwatch(self) -> None:
        watched, self._watched, self._writing, self._link = self._watched, -1, False, None
        if watched >= 0:
            self._loop.remove_reader(watched)
            self._loop.remove_writer(watched)
            os.close(watched)

    def _set_timer(self, due: Optional[float]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # time.monotonic() is what the client counts by, and not always what the loop does.
        self._timer = None if due is None else self._loop.call_later(max(0.0, due - time.monotonic()), self._turn)


class Host:
    """A host on the running loop; an async context manager and an async iterator of leases::

        async with anteroom.aio.attach(capacity=100) as host:
            async for lease in host:
                asyncio.create_task(answer(lease))

    The iteration goes on through all reconnects, and ends after ``drain``. Leaving the block in good order says DRAINING, gives back the
    leases that were not taken out, and returns when the others are answered, after ``grace`` seconds at the latest; an exception hangs up at once.
    """

    def __init__(self, client: Client, on_event: Optional[Callable[[Any], None]] = None, grace: float = GRACE) -> None:
        self.client = client
        """For what else a host may do: ``adopt``, ``listen``, ``drop``, ``set_capacity``, ``has``."""
        self._driver = Driver(client, self._hear)
        self._on_event = on_event
        self._grace = grace
        self._complaints = Complaints(logger)
        self._leases: Deque[Lease] = collections.deque()
        self._settled = False  # whether the first attempt to attach has had its outcome
        self._failure: Optional[errors.AnteroomError] = None
        self._leaving = False

    async def __aenter__(self) -> "Host":
        """Attach. Raises what prevents it."""
        self.start()
        try:
            await asyncio.wait_for(self._driver.until(lambda: self._settled), WELCOME_TIMEOUT)
            if self._failure is not None:
                raise self._failure
        except asyncio.TimeoutError as why:
            self._driver.close()
            raise errors.NobodyListens(
                f"The sidecar at {self.client.path} took our HELLO and did not answer within {WELCOME_TIMEOUT:g} s."
            ) from why
        except BaseException:
            self._driver.close()
            raise
        return self

    async def __aexit__(self, kind: Any, *exc_info: Any) -> None:
        if kind is None:
            await self.leave()
        self._driver.close()

    def __aiter__(self) -> "Host":
        return self

    async def __anext__(self) -> Lease:
        await self._driver.until(lambda: bool(self._leases) or self.client.over)
        if not self._leases:
            raise StopAsyncIteration
        return self._leases.popleft()

    def start(self) -> None:
        """Attach as soon as that can be, instead of ``async with``."""
        self._driver.start()

    def drain(self) -> None:
        """Leave: no new leases come, and the iteration ends once all are answered. For signal handlers (``loop.add_signal_handler``), too."""
        self.client.drain()

    async def leave(self) -> None:
        """Leave, give back what was not taken out, wait for the other leases' answers, and hang up. Never raises for a lost link."""
        self._leaving = True
        self.drain()
        while self._leases:
            self._leases.popleft().nack(NackReason.OVERLOAD)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._driver.until(lambda: self.client.over), self._grace)
        self._driver.close()

    def close(self) -> None:
        """Hang up at once. Leases that are out can still be served, not put. Never raises."""
        self._driver.close()

    def _hear(self, events: List[Any]) -> None:
        for event in events:
            self._hear_one(event)

    def _hear_one(self, event: Any) -> None:
        if isinstance(event, Lease):
            return self._on_lease(event)
        if isinstance(event, (Attached, Detached)) and not self._settled:
            self._failure = event.error if isinstance(event, Detached) else None
            self._settled = True
        self._complaints.hear(event)
        if self._on_event is not None:
            self._on_event(event)

    def _on_lease(self, lease: Lease) -> None:
        if not lease.has_descriptor:
            lease.nack(NackReason.UNKNOWN)  # nothing is held here that it could mean
        elif self._leaving:
            lease.nack(NackReason.OVERLOAD)
        else:
            self._leases.append(lease)


def attach(path: Optional[str] = None, *, on_event: Optional[Callable[[Any], None]] = None, grace: float = GRACE, **options: Any) -> Host:
    """A host, to be entered with ``async with``. ``options`` are those of ``anteroom.Client``.

    ``on_event`` is called with what is no lease (``Attached``, ``Detached``, ``Forgotten`` …). Call this while a loop is running. Raises
    ValueError for what the protocol does not allow.
    """
    return Host(Client(path, **options), on_event, grace)


async def serve(
    handler: Callable[[Lease], Awaitable[None]],
    path: Optional[str] = None,
    *,
    signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT),
    **options: Any,
) -> None:
    """Run ``handler(lease)`` as a task for each lease, until one of ``signals`` comes; then finish what is held, and return.

    Waits for a sidecar that is not there, also at first, and says so once in the log. A lease whose handler ends without an answer is closed.
    Cancelling this cancels the handlers. ``options`` are those of ``attach``.
    """
    host = attach(path, **options)
    loop = asyncio.get_running_loop()
    tasks: Set["asyncio.Task[None]"] = set()
    for number in signals:
        loop.add_signal_handler(number, host.drain)
    try:
        host.start()
        async for lease in host:
            task = loop.create_task(_answer(handler, lease))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            del lease, task  # nothing here keeps a lease from being noticed when it is dropped
        await host.leave()
        if tasks:
            await asyncio.wait(tasks)
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        host.close()


async def _answer(handler: Callable[[Lease], Awaitable[None]], lease: Lease) -> None:
    try:
        await handler(lease)
    except Exception:
        logger.exception("A lease could not be served.")
    finally:
        lease.close(CloseReason.APP)


# A forked child has a copy of what is watched: the sidecar would not see its parent's link end.
_drivers: "weakref.WeakSet[Driver]" = weakref.WeakSet()


def _close_inherited() -> None:
    for driver in list(_drivers):
        watched, driver._watched = driver._watched, -1
        if watched >= 0:
            with contextlib.suppress(OSError):
                os.close(watched)


os.register_at_fork(after_in_child=_close_inherited)
