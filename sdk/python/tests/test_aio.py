"""The asyncio host, against the double and the real sidecar."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import types

import pytest

import anteroom
import anteroom.aio
import sidecars
from anteroom.frame import CloseReason, Flag, ForgetReason, Frame, Type

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def run(coroutine):
    """As asyncio.run, with a limit to how long a test may hang."""
    return asyncio.run(asyncio.wait_for(coroutine, 30))


async def eventually(condition):
    while not condition():
        await asyncio.sleep(0.002)


async def answer(lease):
    loop = asyncio.get_running_loop()
    with lease.socket() as sock:
        sock.setblocking(False)
        await loop.sock_recv(sock, 65536)
        await loop.sock_sendall(sock, RESPONSE)
        lease.put()


@contextlib.asynccontextmanager
async def listening(host):
    """A listening socket that the sidecar accepts on for the host. Yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        listener = host.client.listen(sock)
        await eventually(lambda: listener.id)
        yield sock.getsockname()


@contextlib.asynccontextmanager
async def connected(address):
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def get(reader, writer):
    writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    return await reader.readexactly(len(RESPONSE))


def test_a_process_without_a_descriptor_to_watch_its_link_attaches_later(fake, monkeypatch):
    async def main():
        failures = [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

        def dup(fd):
            if failures:
                raise failures.pop()
            return os.dup(fd)

        monkeypatch.setattr(anteroom.aio, "os", types.SimpleNamespace(dup=dup, close=os.close))
        host = anteroom.aio.attach(fake.path, pool="")
        host.start()
        await eventually(lambda: host.client.attached)
        assert failures == []
        host.close()

    run(main())


def test_requests_of_one_connection(sidecar):
    async def main():
        async with anteroom.aio.attach(sidecar.path, pool="", capacity=2) as host, listening(host) as address:
            async with connected(address) as client:
                asking = asyncio.create_task(get(*client))
                async for lease in host:
                    await answer(lease)
                    assert await asking == RESPONSE
                    if not lease.fresh:
                        break
                    asking = asyncio.create_task(get(*client))

    run(main())


def test_many_clients_at_once(sidecar):
    async def main():
        tasks = set()

        async def lend(host):
            async for lease in host:
                tasks.add(asyncio.create_task(answer(lease)))

        async with anteroom.aio.attach(sidecar.path, pool="", capacity=8) as host, listening(host) as address:
            lending = asyncio.create_task(lend(host))

            async def client():
                async with connected(address) as streams:
                    assert [await get(*streams) for _ in range(10)] == [RESPONSE] * 10

            await asyncio.gather(*(client() for _ in range(30)))
            host.drain()
            await lending
            await asyncio.gather(*tasks)
        assert len(tasks) == 300

    run(main())


def test_what_prevents_attaching_is_raised(path):
    async def main():
        with pytest.raises(anteroom.SocketMissing):
            async with anteroom.aio.attach(path):
                pass

    run(main())


def test_a_sidecar_that_does_not_answer(path, monkeypatch):
    monkeypatch.setattr(anteroom.aio, "WELCOME_TIMEOUT", 0.05)

    async def main():
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(path)
            mute.listen()
            with pytest.raises(anteroom.NobodyListens):
                async with anteroom.aio.attach(path):
                    pass

    run(main())


def test_leaving_gives_back_what_was_not_taken_out(fake):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as sock:
            fake.listen(sock)
            async with connected(sock.getsockname()) as (reader, writer):
                async with anteroom.aio.attach(fake.path, pool="default"):
                    writer.write(b"GET / HTTP/1.1\r\n\r\n")
                    await eventually(lambda: fake.states()["leased"])
                assert (fake.counts["DRAIN"], fake.counts["NACK"]) == (1, 1)
                await eventually(lambda: fake.states() == {"ready": 1})

    run(main())


def test_leaving_waits_for_what_is_held(fake):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as sock:
            fake.listen(sock)
            async with connected(sock.getsockname()) as client:
                asking = asyncio.create_task(get(*client))
                async with anteroom.aio.attach(fake.path, pool="default") as host:
                    async for lease in host:
                        break
                    task = asyncio.create_task(answer(lease))
                    del lease
                assert task.done()
                assert await asking == RESPONSE
                assert fake.counts["PUT"] == 1

    run(main())


def test_leaving_does_not_wait_for_ever(fake):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as sock:
            fake.listen(sock)
            async with connected(sock.getsockname()) as (reader, writer):
                async with anteroom.aio.attach(fake.path, pool="default", grace=0.05) as host:
                    writer.write(b"GET / HTTP/1.1\r\n\r\n")
                    async for lease in host:
                        break
                assert lease.over

    run(main())


def test_an_exception_hangs_up(fake):
    async def main():
        with pytest.raises(ZeroDivisionError):
            async with anteroom.aio.attach(fake.path, pool="default"):
                raise ZeroDivisionError
        assert fake.counts["DRAIN"] == 0
        await eventually(lambda: fake.hosts() == 0)

    run(main())


def test_events_and_pings(fake):
    async def main():
        events = []
        async with anteroom.aio.attach(fake.path, pool="default", features=("track",), on_event=events.append):
            fake.tell_hosts(Frame(Type.PING, a=7))
            await eventually(lambda: fake.counts["PONG"])
            fake.tell_hosts(Frame(Type.FORGET, conn=5, a=ForgetReason.EXPIRED))
            await eventually(lambda: len(events) == 2)
        assert isinstance(events[0], anteroom.Attached)
        assert events[1] == anteroom.Forgotten(5, ForgetReason.EXPIRED, None)

    run(main())


def test_a_lease_without_descriptor_is_not_this_hosts(fake):
    async def main():
        async with anteroom.aio.attach(fake.path, pool="default"):
            fake.tell_hosts(Frame(Type.LEASE, Flag.FRESH, seq=1, conn=5))
            await eventually(lambda: fake.counts["NACK"])

    run(main())


def test_the_handler_of_serve(fake, caplog):
    async def handler(lease):
        loop = asyncio.get_running_loop()
        sock = lease.socket()
        sock.setblocking(False)
        with sock:
            request = await loop.sock_recv(sock, 100)
            if request.startswith(b"FAIL"):
                raise ZeroDivisionError
            if request.startswith(b"FORGET"):
                return
            await loop.sock_sendall(sock, RESPONSE)
            lease.put()

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as sock:
            fake.listen(sock)
            serving = asyncio.create_task(anteroom.aio.serve(handler, fake.path, pool="default", capacity=2))
            for number, word in enumerate((b"FAIL", b"FORGET"), 1):
                async with connected(sock.getsockname()) as (reader, writer):
                    writer.write(word)
                    assert await reader.read() == b""
                assert fake.counts[f"close {CloseReason.APP:d}"] == number
            async with connected(sock.getsockname()) as client:
                assert await get(*client) == RESPONSE
                os.kill(os.getpid(), signal.SIGTERM)
                await serving
            assert fake.counts["DRAIN"] == 1

    run(main())
    assert "ZeroDivisionError" in caplog.text


def test_serve_waits_for_a_sidecar_and_finds_its_successor(path, caplog):
    async def main():
        serving = asyncio.create_task(anteroom.aio.serve(answer, path, pool="default", capacity=2))
        for complaint in ("There is no handoff socket", "The sidecar hung up"):
            await eventually(lambda: complaint in caplog.text)
            double = sidecars.start("fake", path)
            with socket.create_server(("127.0.0.1", 0)) as sock:
                double.listen(sock)
                async with connected(sock.getsockname()) as client:
                    assert await get(*client) == RESPONSE
                await asyncio.get_running_loop().run_in_executor(None, double.stop)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    run(main())


def test_cancelling_serve_cancels_the_handlers(fake):
    seen = []

    async def handler(lease):
        seen.append("called")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as sock:
            fake.listen(sock)
            serving = asyncio.create_task(anteroom.aio.serve(handler, fake.path, pool="default"))
            async with connected(sock.getsockname()) as (reader, writer):
                writer.write(b"x")
                await eventually(lambda: seen)
                serving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await serving
                await reader.read()

    run(main())
    assert seen == ["called", "cancelled"]


def test_a_forked_child_keeps_nothing_of_the_link(fake):
    async def main():
        async with anteroom.aio.attach(fake.path, pool="default") as host:
            pid = os.fork()
            if pid == 0:
                os._exit(host._driver._watched != -1 or host.client.fileno() != -1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    run(main())
