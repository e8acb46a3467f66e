"""The transport of leased connections, on a socket pair."""

import asyncio
import select
import socket

import pytest

from anteroom.transport import Transport


class Protocol(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self):
        self.told = []
        self.received = b""
        self.fails = False

    def data_received(self, data):
        if self.fails:
            raise ZeroDivisionError
        self.received += data

    def eof_received(self):
        self.told.append("eof")

    def pause_writing(self):
        self.told.append("pause")

    def resume_writing(self):
        self.told.append("resume")

    def connection_lost(self, exc):
        self.told.append("lost" if exc is None else type(exc).__name__)


class Pair:
    """A transport and its client's socket. ``attend`` does what the transports' owner does at the end of a turn."""

    def __init__(self):
        sock, self.client = socket.socketpair()
        self.client.settimeout(5)
        self.protocol = Protocol()
        self.arranged = []
        self.transport = Transport(asyncio.get_running_loop(), sock, self.protocol, lambda transport: self.arranged.append(transport))

    def attend(self):
        arranged, self.arranged = self.arranged, []
        for transport in arranged:
            transport.attend()
            transport.watch()
        return len(arranged)

    def nothing_sent(self):
        return not select.select([self.client], [], [], 0)[0]


def run(check):
    async def main():
        pair = Pair()
        try:
            await check(pair)
        finally:
            pair.transport.abort()
            await asyncio.sleep(0)
            pair.client.close()
        assert pair.transport.get_extra_info("socket").fileno() == -1

    asyncio.run(asyncio.wait_for(main(), 30))


async def eventually(condition):
    while not condition():
        await asyncio.sleep(0.002)


def drain(client, count):
    data = b""
    while len(data) < count:
        data += client.recv(count - len(data))
    return data


def test_what_is_there_is_read_at_once_and_the_rest_when_it_comes():
    async def check(pair):
        assert not pair.transport.read()
        pair.client.sendall(b"abc")
        assert pair.transport.read() and pair.protocol.received == b"abc"
        pair.client.sendall(b"def")
        await asyncio.sleep(0.01)
        assert pair.protocol.received == b"abc"  # nobody watches yet
        assert pair.attend() == 1
        await eventually(lambda: pair.protocol.received == b"abcdef")

    run(check)


def test_a_transport_that_is_paused_reads_nothing():
    async def check(pair):
        pair.transport.read()
        pair.transport.pause_reading()
        pair.attend()
        pair.client.sendall(b"abc")
        await asyncio.sleep(0.01)
        assert not pair.protocol.received and not pair.transport.is_reading()
        pair.transport.resume_reading()
        pair.attend()
        await eventually(lambda: pair.protocol.received == b"abc")
        pair.transport.pause_reading()  # the loop watches now
        pair.client.sendall(b"def")
        await asyncio.sleep(0.01)
        assert pair.protocol.received == b"abc"

    run(check)


@pytest.mark.parametrize("body", [b"body", b"body" * 10000])
def test_a_head_is_sent_with_its_body(body):
    async def check(pair):
        pair.transport.gather()
        pair.transport.write(b"head")
        assert pair.nothing_sent() and pair.transport.get_write_buffer_size() == 4
        pair.transport.write(body)
        assert drain(pair.client, 4 + len(body)) == b"head" + body
        pair.transport.write(b"more")
        assert drain(pair.client, 4) == b"more"

    run(check)


@pytest.mark.parametrize("then", ["attend", "gather", "flush", "close"])
def test_a_head_that_no_body_follows_is_sent_all_the_same(then):
    async def check(pair):
        pair.transport.gather()
        pair.transport.write(b"head")
        getattr(pair if then == "attend" else pair.transport, then)()
        assert drain(pair.client, 4) == b"head"

    run(check)


def test_an_aborted_connection_sends_no_more():
    async def check(pair):
        pair.transport.gather()
        pair.transport.write(b"head")
        pair.transport.abort()
        pair.transport.write(b"body")
        await asyncio.sleep(0)
        assert pair.client.recv(100) == b"" and pair.protocol.told == ["lost"]

    run(check)


def test_what_the_client_does_not_take_follows():
    async def check(pair):
        flushed = []
        pair.transport.on_flushed = lambda: flushed.append(pair.transport.get_write_buffer_size())
        pair.transport.gather()
        pair.transport.write(b"head")
        pair.transport.write(b"x" * 8_000_000)
        assert pair.protocol.told == ["pause"] and not flushed
        loop = asyncio.get_running_loop()
        taking = loop.run_in_executor(None, drain, pair.client, 8_000_004)
        assert await taking == b"head" + b"x" * 8_000_000
        await eventually(lambda: flushed == [0])
        assert pair.protocol.told == ["pause", "resume"]

    run(check)


@pytest.mark.parametrize("end", ["close", "write_eof"])
def test_an_end_comes_behind_what_was_written(end):
    async def check(pair):
        pair.transport.write(b"x" * 8_000_000)
        getattr(pair.transport, end)()
        loop = asyncio.get_running_loop()
        assert len(await loop.run_in_executor(None, drain, pair.client, 8_000_000)) == 8_000_000
        assert await loop.run_in_executor(None, pair.client.recv, 1) == b""

    run(check)


def test_the_clients_end():
    async def check(pair):
        pair.client.sendall(b"abc")
        pair.transport.read()
        pair.client.shutdown(socket.SHUT_WR)
        pair.attend()
        await eventually(lambda: pair.protocol.told == ["eof", "lost"])

    run(check)


def test_a_client_that_is_gone():
    async def check(pair):
        pair.client.close()
        pair.transport.write(b"abc")
        assert pair.transport.is_closing()
        await eventually(lambda: pair.protocol.told == ["BrokenPipeError"])

    run(check)


def test_a_protocol_that_fails_loses_its_connection():
    async def check(pair):
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["exception"]))
        pair.protocol.fails = True
        pair.client.sendall(b"abc")
        pair.transport.read()
        await eventually(lambda: pair.protocol.told == ["ZeroDivisionError"])
        assert len(complaints) == 1

    run(check)
