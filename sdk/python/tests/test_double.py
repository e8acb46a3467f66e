"""The double itself, where its fault would look like one of what it tests."""

import socket

import anteroom
from conftest import eventually


def test_the_number_of_a_closed_descriptor_may_be_another_s_at_once(fake):
    """A newcomer gets the number of the listener that was closed just before, while an event of that listener is still to be handled."""
    with socket.create_server(("127.0.0.1", 0)) as sock, anteroom.Client(fake.path, pool="") as client:
        first = client.listen(sock)
        second = client.listen(sock)
        eventually(lambda: client.turn() is not None and first.id and second.id)
        with fake.standing_still():
            first.close()
            newcomer = socket.create_connection(sock.getsockname())
        with newcomer:
            eventually(lambda: fake.listeners() == 1 and fake.counts["accepted"] == 1)
            assert fake.states() == {"idle": 1}
