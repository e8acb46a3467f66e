# frozen_string_literal: true

require "support/helper"
require "anteroom/lent_socket"

# Reading no further than a request, and responses that do not fit.
class TestLentSocket < Minitest::Test
  include Helper
  BIG = Random.new(1).bytes(8 << 20)

  def setup
    @client, server = tcp_pair
    @socket = Anteroom::LentSocket.adopt(server)
  end

  def teardown
    [@client, @socket].each(&:close)
  end

  def test_it_is_what_servers_expect
    assert_kind_of TCPSocket, @socket
    assert_equal "127.0.0.1", @socket.peeraddr.last
    ours, theirs = UNIXSocket.pair
    unix = Anteroom::LentSocket.adopt(ours)
    assert_kind_of UNIXSocket, unix
    [unix, theirs].each(&:close)
  end

  def test_it_reads_no_further_than_the_request
    @socket.expect(5, overflow: false)
    @client.write("12345next")
    @socket.wait_readable(PATIENCE)
    assert_equal "123", @socket.read_nonblock(3)
    assert_equal "45", @socket.read_nonblock(100)
    @socket.expect(nil, overflow: false)
    assert_equal "next", @socket.read_nonblock(100)
  end

  def test_empty_lines_before_a_request_are_skipped_and_not_within
    @socket.expect(nil, overflow: false)
    @client.write("\r\n")
    assert @socket.wait_readable(PATIENCE)
    assert_raises(IO::WaitReadable) { @socket.read_nonblock(10) }
    @client.write("\r\nGET")
    assert @socket.wait_readable(PATIENCE)
    assert_equal "GET", @socket.read_nonblock(10)
    @client.write("\r\n")
    assert @socket.wait_readable(PATIENCE)
    assert_equal "\r\n", @socket.read_nonblock(10)
  end

  def test_without_overflow_it_says_that_it_is_full
    @socket.expect(nil, overflow: false)
    assert_raises(IO::WaitWritable) { loop { @socket.syswrite(BIG) } }
    refute @socket.overflowing?
  end

  def test_what_the_client_does_not_take_overflows
    @socket.expect(nil, overflow: true)
    rest = BIG
    rest = rest.byteslice(@socket.syswrite(rest)..) until rest.empty?
    @socket.syswrite("the end")
    overflow = @socket.take_overflow
    refute @socket.overflowing?
    assert_equal File.size(overflow.file), overflow.size
    read = @client.readpartial(1 << 20)
    read << @client.readpartial(1 << 20) while @client.wait_readable(0.1)
    overflow.each_part { |part| read << part }
    assert read == "#{BIG}the end".b
  ensure
    overflow&.close
  end

  def test_a_response_beyond_the_limit_waits_for_the_client
    @socket.expect(nil, overflow: true)
    part = BIG.byteslice(0, 1 << 20)
    parts = 3 * (Anteroom::LentSocket::OVERFLOW_LIMIT / part.bytesize)
    most = 0
    reader = Thread.new do
      sleep 0.2 # so that the file fills
      Array.new(parts) { @client.read(part.bytesize) }
    end
    parts.times do
      write_all(part)
      most = [most, @socket.instance_variable_get(:@overflow)&.size.to_i].max
    end
    overflow = @socket.take_overflow
    @socket.stop_overflow
    overflow&.each_part { |rest| write_all(rest) }
    assert(reader.value.all? { |each| each == part })
    assert_includes 1..Anteroom::LentSocket::OVERFLOW_LIMIT, most
  ensure
    overflow&.close
  end

  def write_all(data)
    until data.empty?
      begin
        data = data.byteslice(@socket.syswrite(data)..)
      rescue IO::WaitWritable
        assert @socket.wait_writable(PATIENCE)
      end
    end
  end
end
