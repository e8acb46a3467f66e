# frozen_string_literal: true

require "support/helper"
require "support/fake_sidecar"

# The receiver's rules of the protocol, with a real socket.
class TestLink < Minitest::Test
  include Helper
  Type = Anteroom::Type
  FD = Anteroom::Flag::FD

  def setup
    ours, theirs = UNIXSocket.pair
    @link = Anteroom::Link.new(ours)
    @peer = FakeSidecar::Peer.new(theirs)
    @file, @other = IO.pipe
  end

  def teardown
    [@link, @peer, @file, @other].each(&:close)
  end

  def receive_all
    received = []
    received.concat(@link.receive) while @link.instance_variable_get(:@socket).wait_readable(0.05)
    received
  end

  def frame(conn, flags: 0, type: Type::LEASE)
    Anteroom::Frame.encode(type, flags: flags, conn: conn)
  end

  def test_plain_frames_before_a_descriptor_do_not_get_it
    @peer.write(frame(1) + frame(2))
    @peer.write(frame(3, flags: FD), @file)
    @peer.write(frame(4))
    received = receive_all
    assert_equal [1, 2, 3, 4], received.map { |each, _| each.conn }
    assert_equal [nil, nil, IO, nil], received.map { |_, io| io&.class }
  end

  def test_one_write_may_have_plain_frames_before_that_with_the_descriptor
    @peer.write(frame(1) + frame(2, flags: FD), @file)
    assert_equal @file.stat.ino, receive_all.last.last.stat.ino
  end

  def test_more_plain_frames_than_one_look_takes
    200.times { |number| @peer.write(frame(number)) }
    @peer.write(frame(200, flags: FD), @file)
    received = receive_all
    assert_equal (0..200).to_a, (received.map { |each, _| each.conn })
    assert_equal @file.stat.ino, received.last.last.stat.ino
  end

  def test_a_frame_read_in_two_halves_keeps_its_descriptor
    first = frame(1, flags: FD)
    @peer.write(first.byteslice(0, 10), @file)
    assert_empty receive_all
    @peer.write(first.byteslice(10..))
    @peer.write(frame(2, flags: FD), @other)
    received = receive_all
    assert_equal [1, 2], received.map { |each, _| each.conn }
    assert_equal [@file, @other].map { |io| io.stat.ino }, (received.map { |_, io| io.stat.ino })
  end

  def test_a_hundred_leases_at_once
    100.times { |number| @peer.write(frame(number, flags: FD), @file) }
    received = receive_all
    assert_equal (0..99).to_a, (received.map { |each, _| each.conn })
    assert(received.all? { |_, io| io.close_on_exec? })
  end

  def test_a_lost_descriptor_is_told_of
    without_descriptors do
      @peer.write(frame(7, flags: FD), @file)
      @link.wait
      assert_equal [[7, Anteroom::Link::Lost]], (@link.receive.map { |each, io| [each.conn, io] })
    end
    @peer.write(frame(8, flags: FD), @other)
    assert_equal [8], (receive_all.map { |each, io| each.conn if io.stat.ino == @other.stat.ino })
  end

  def test_ping_is_answered
    @peer.send_frame(Type::PING, a: 99)
    @link.wait
    assert_empty @link.receive
    assert_equal 99, @peer.expect(Type::PONG).a
  end

  def test_words_of_a_later_version_are_skipped_and_their_descriptors_closed
    assert_no_descriptor_leaks do
      @peer.write(frame(1, flags: FD, type: 0x7e), @file)
      @peer.write(Anteroom::Frame.encode(0x7f, payload: "more"))
      @peer.write(frame(2))
      assert_equal [2], (receive_all.map { |each, _| each.conn })
    end
  end

  def test_two_descriptors_in_one_message_are_an_error_and_closed
    assert_no_descriptor_leaks do
      @peer.instance_variable_get(:@socket).sendmsg(frame(1, flags: FD), 0, nil, Socket::AncillaryData.unix_rights(@file, @other))
      error = assert_raises(Anteroom::ProtocolError) { @link.wait && @link.receive }
      assert_match(/2 descriptors/, error.message)
      @link.close
    end
  end

  def test_a_descriptor_that_did_not_come_is_an_error
    @peer.write(frame(1, flags: FD))
    assert_raises(Anteroom::ProtocolError) { @link.wait && @link.receive }
  end

  def test_nonsense_is_an_error
    @peer.write("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    assert_raises(Anteroom::ProtocolError) { @link.wait && @link.receive }
  end

  def test_the_end
    @peer.close
    error = assert_raises(Anteroom::LinkLost) { @link.wait && @link.receive }
    assert_equal "The sidecar hung up.", error.message
    assert_raises(Anteroom::LinkLost) { @link.send(frame(1)) }
  end

  def test_a_thread_that_waits_learns_that_the_link_was_closed
    waiting = Thread.new { assert_raises(Anteroom::LinkLost) { @link.wait } }
    eventually("waiting") { waiting.stop? }
    @link.close
    assert waiting.join(PATIENCE)
  end

  def test_a_frame_with_a_descriptor
    @link.send(frame(5, flags: FD, type: Type::FINISH), @file)
    assert_equal 5, @peer.expect(Type::FINISH).conn
    assert_equal @file.stat.ino, @peer.descriptor.stat.ino
  end

  def test_many_threads_send_whole_frames
    writers = Array.new(8) { |number| Thread.new { 500.times { @link.send(frame(number, type: Type::DROPPED)) } } }
    counts = Hash.new(0)
    4000.times { counts[@peer.expect(Type::DROPPED).conn] += 1 }
    writers.each(&:join)
    assert_equal [500] * 8, counts.values
  end
end
