"""The codec against the vectors that every implementation runs."""

import json
import pathlib

import pytest

from anteroom import frame
from anteroom.frame import BadFrame, Frame, decode
from anteroom.session import Hello

VECTORS = pathlib.Path(__file__).parents[3] / "handoff" / "testdata" / "vectors"


def load(name):
    return [pytest.param(vector, id=vector["name"]) for vector in json.loads((VECTORS / name).read_text("utf-8"))]


def frame_of(vector):
    numbers = [int(vector[field]) for field in ("type", "flags", "seq", "conn", "a", "b")]
    return Frame(*numbers, payload=vector["payload"].encode())


@pytest.mark.parametrize("vector", load("frames.json"))
def test_frames(vector):
    wanted, data = frame_of(vector), bytes.fromhex(vector["hex"])
    assert wanted.encode() == data
    assert decode(data) == (wanted, len(data))
    # In a stream, with something before and behind.
    assert decode(b"??" + data + data, 2) == (wanted, 2 + len(data))


@pytest.mark.parametrize("vector", load("frames.json"))
def test_every_beginning_of_a_frame_wants_more(vector):
    data = bytes.fromhex(vector["hex"])
    for length in {0, 1, 31, len(data) - 1} & set(range(len(data))):
        assert decode(data[:length]) == (None, 0)


@pytest.mark.parametrize("vector", load("incomplete_and_bad.json"))
def test_incomplete_and_bad(vector):
    data = bytes.fromhex(vector["hex"])
    if vector["want"] == "more":
        assert decode(data) == (None, 0)
        return
    with pytest.raises(BadFrame) as caught:
        decode(data)
    assert caught.value.code.name == vector["want"]


def test_hello_is_what_the_vectors_call_good():
    good = next(vector.values[0] for vector in load("hello.json") if vector.values[0]["want"] == "ok")
    wanted, _ = decode(bytes.fromhex(good["frame"]))
    said, _ = decode(Hello("web:1", "_a_b_c_d_", 4096, (), "").encode())
    assert (said.type, said.flags, said.seq, said.conn, said.a) == (wanted.type, wanted.flags, wanted.seq, wanted.conn, wanted.a)
    assert json.loads(said.payload)["capacity"] == json.loads(wanted.payload)["capacity"]


def test_a_payload_that_is_too_long_is_not_sent():
    with pytest.raises(ValueError, match="8193 bytes"):
        Frame(frame.Type.ERROR, payload=b"x" * (frame.MAX_PAYLOAD + 1)).encode()
