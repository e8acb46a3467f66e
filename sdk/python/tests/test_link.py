"""The link's rules, each of which follows from what Linux does with descriptors in a stream."""

import array
import os
import socket

import pytest

from anteroom import errors
from anteroom.events import OutOfDescriptors
from anteroom.frame import Flag, Frame, NackReason, Type
from anteroom.link import MAX_UNSENT, Link
from conftest import no_descriptor_left


@pytest.fixture
def ends():
    """A link, and the socket at its other end."""
    ours, theirs = socket.socketpair()
    link = Link(ours)
    with theirs:
        yield link, theirs
        link.close()


def send_with_descriptor(sock, data, *fds):
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def lease(conn, **fields):
    return Frame(Type.LEASE, conn=conn, seq=1, **fields)


def lease_with_descriptor(conn):
    return lease(conn, flags=Flag.FD).encode()


def same_file(a, b):
    return os.path.samestat(os.fstat(a), os.fstat(b))


def no_descriptor(conn):
    return Frame(Type.NACK, seq=1, conn=conn, a=NackReason.NO_DESCRIPTOR).encode()


def receive(link):
    """What has come now."""
    link.receive()
    received = list(link.frames)
    link.frames.clear()
    return received


def test_plain_frames_followed_by_one_with_a_descriptor_come_in_one_read(ends):
    link, theirs = ends
    with open("/dev/null") as file:
        theirs.send(lease(1).encode() + lease(2).encode())
        send_with_descriptor(theirs, lease_with_descriptor(3), file.fileno())
        theirs.send(lease(4).encode())
        received = receive(link) + receive(link)
        assert [frame.conn for frame, _ in received] == [1, 2, 3, 4]
        assert [fd is not None for _, fd in received] == [False, False, True, False]
        assert same_file(received[2][1], file.fileno())
        assert not os.get_inheritable(received[2][1])
        os.close(received[2][1])


def test_a_frame_read_in_two_halves_keeps_its_descriptor_although_the_next_one_is_merged(ends, tmp_path):
    link, theirs = ends
    with open(tmp_path / "1", "w") as one, open(tmp_path / "2", "w") as two:
        whole = lease_with_descriptor(1)
        send_with_descriptor(theirs, whole[:10], one.fileno())
        assert receive(link) == []
        theirs.send(whole[10:])
        send_with_descriptor(theirs, lease_with_descriptor(2), two.fileno())
        received = receive(link)
        assert [frame.conn for frame, _ in received] == [1, 2]
        for (_, fd), file in zip(received, (one, two)):
            assert same_file(fd, file.fileno())
            os.close(fd)


def test_a_lease_whose_descriptor_found_no_room_is_answered_with_nack(ends):
    link, theirs = ends
    with open("/dev/null") as file:
        send_with_descriptor(theirs, lease_with_descriptor(7), file.fileno())
        with no_descriptor_left():
            assert receive(link) == [OutOfDescriptors(7, dropped=0)]
    assert theirs.recv(100) == no_descriptor(7)


def test_room_is_made_before_a_lease_is_given_back(ends):
    link, theirs = ends

    def make_room():
        link.send(Frame(Type.DROPPED, conn=5).encode())
        return 1

    link.make_room = make_room
    with open("/dev/null") as file:
        send_with_descriptor(theirs, lease_with_descriptor(7), file.fileno())
        with no_descriptor_left():
            assert receive(link) == [OutOfDescriptors(7, dropped=1)]
    assert theirs.recv(100) == Frame(Type.DROPPED, conn=5).encode() + no_descriptor(7)


def test_room_is_made_for_the_duplicate_of_a_descriptor(ends):
    link, theirs = ends
    with open("/dev/null") as file, open("/dev/null") as idle:
        link.make_room = idle.close
        with no_descriptor_left():
            link.send(Frame(Type.LISTEN, Flag.FD).encode(), file.fileno())
        assert idle.closed
        _, ((_, _, data),), _, _ = theirs.recvmsg(100, 100)
        (fd,) = array.array("i", data)
        assert same_file(fd, file.fileno())
        os.close(fd)


def test_a_descriptor_that_cannot_be_duplicated_is_not_sent(ends):
    link, theirs = ends
    with open("/dev/null") as file, no_descriptor_left(), pytest.raises(errors.LinkLost, match="No room"):
        link.send(Frame(Type.LISTEN, Flag.FD).encode(), file.fileno())
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


def test_a_lost_descriptor_is_not_replaced_by_that_of_the_next_lease(ends):
    link, theirs = ends
    with open("/dev/null") as file:
        whole = lease_with_descriptor(1)
        send_with_descriptor(theirs, whole[:20], file.fileno())
        with no_descriptor_left():
            assert receive(link) == []
        theirs.send(whole[20:])
        send_with_descriptor(theirs, lease_with_descriptor(2), file.fileno())
        lost, (frame, fd) = receive(link)
        assert lost == OutOfDescriptors(1, dropped=0)
        assert frame.conn == 2 and same_file(fd, file.fileno())
        os.close(fd)
    assert theirs.recv(100) == no_descriptor(1)


def test_a_link_may_be_closed_while_a_lost_descriptor_is_due(ends):
    link, theirs = ends
    with open("/dev/null") as file:
        send_with_descriptor(theirs, lease_with_descriptor(1)[:20], file.fileno())
        with no_descriptor_left():
            assert receive(link) == []
    link.close()


def test_an_unknown_frame_is_skipped_and_its_descriptor_closed(ends):
    link, theirs = ends
    with open("/dev/null") as file:
        send_with_descriptor(theirs, Frame(0x7F, Flag.FD, payload=b"later").encode(), file.fileno())
    assert receive(link) == []  # nothing_is_left sees to the descriptor


def test_two_descriptors_in_one_message_end_the_link(ends):
    link, theirs = ends
    with open("/dev/null") as file:
        send_with_descriptor(theirs, lease_with_descriptor(1), file.fileno(), file.fileno())
    with pytest.raises(errors.ProtocolError, match="two descriptors"):
        link.receive()


def test_a_descriptor_that_was_announced_must_come(ends):
    link, theirs = ends
    theirs.send(lease_with_descriptor(1))
    with pytest.raises(errors.ProtocolError, match="did not come"):
        link.receive()


def test_garbage_ends_the_link_and_no_descriptor_leaks(ends):
    link, theirs = ends
    with open("/dev/null") as file:
        theirs.send(b"GET / HTTP/1.1\r\n" * 2)
        send_with_descriptor(theirs, lease_with_descriptor(1), file.fileno())
    with pytest.raises(errors.ProtocolError, match="a payload of"):
        link.receive()


def test_ping_is_answered(ends):
    link, theirs = ends
    theirs.send(Frame(Type.PING, a=12345).encode())
    assert receive(link) == []
    assert theirs.recv(100) == Frame(Type.PONG, a=12345).encode()


def test_hanging_up_is_told(ends):
    link, theirs = ends
    theirs.close()
    with pytest.raises(errors.LinkLost, match="hung up"):
        link.receive()
    with pytest.raises(errors.LinkLost):
        link.send(Frame(Type.PONG).encode())


def test_what_does_not_fit_waits_in_order_with_its_descriptor(ends):
    link, theirs = ends
    put, sent = Frame(Type.PUT, conn=1).encode(), 0
    while not link.wants_write:
        link.send(put)
        sent += 1
    with open("/dev/null") as file:
        link.send(Frame(Type.LISTEN, Flag.FD, conn=2).encode(), file.fileno())
    link.send(put)
    data, fds = b"", []
    while len(data) < len(put) * (sent + 2):
        link.flush()
        part, control, _, _ = theirs.recvmsg(65536, 100)
        data += part
        for _, _, rights in control:
            fds.extend(array.array("i", rights))
    assert data == put * sent + Frame(Type.LISTEN, Flag.FD, conn=2).encode() + put
    (fd,) = fds
    assert os.path.samestat(os.fstat(fd), os.stat("/dev/null"))
    os.close(fd)
    assert not link.wants_write


def test_a_sidecar_that_does_not_read_is_given_up(ends):
    link, _ = ends
    data = Frame(Type.PUT).encode()
    with pytest.raises(errors.LinkLost, match="does not read"):
        for _ in range(2 * MAX_UNSENT // len(data)):
            link.send(data)


def test_the_link_ends_in_a_forked_child(ends):
    link, theirs = ends
    child = os.fork()
    if child == 0:
        os._exit(0 if link.fileno() == -1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    link.send(Frame(Type.PONG).encode())
    assert theirs.recv(100) == Frame(Type.PONG).encode()


def test_what_others_add_while_a_thread_sends_goes_with_it(ends, monkeypatch):
    link, theirs = ends
    frames = [Frame(Type.PUT, conn=number).encode() for number in range(4)]
    write, batches = link._write, []

    def write_and_be_joined(data, fd):
        batches.append(data)
        if len(batches) == 1:
            link.send(frames[1])
            link.send(frames[2])
            link.close()  # which waits until all is sent
            assert link.fileno() == -1
        return write(data, fd)

    monkeypatch.setattr(link, "_write", write_and_be_joined)
    link.send(frames[0])
    assert batches == [frames[0], frames[1] + frames[2]]
    assert theirs.recv(1000) + theirs.recv(1000) == b"".join(frames[:3])
    assert theirs.recv(1000) == b""
    with pytest.raises(errors.LinkLost):
        link.send(frames[3])
