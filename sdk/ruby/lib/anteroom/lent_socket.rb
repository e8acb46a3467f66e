# frozen_string_literal: true

require "io/wait"
require "socket"
require_relative "overflow"

module Anteroom
  # A client's socket in the hands of a host: reads no further than one request, keeps what the client does not take, and can be cut off.
  #
  # The open file description is the sidecar's too. So nothing here changes O_NONBLOCK, +close+ ends nothing, and +shutdown+ ends the
  # connection for everybody.
  module LentSocket
    # Bytes of a response that wait in a file for a client that takes them slowly. What comes on top waits in its thread.
    OVERFLOW_LIMIT = 16 << 20

    # Wraps what Link#receive gave; the descriptor is then the new socket's.
    def self.adopt(io)
      io.autoclose = false
      (io.local_address.unix? ? UnixClient : TCPClient).for_fd(io.fileno)
    end

    # Begins a request of +length+ bytes (nil: unknown). With +overflow+, responses may overflow.
    def expect(length, overflow:)
      @left = length
      @before_request = true
      @may_overflow = overflow
    end

    # Is an ordinary socket from now on, which first gives what was read too far. Never raises: that the client is gone, its next user learns.
    def release(unread = nil)
      @left = nil
      @before_request = @may_overflow = false
      ungetbyte(unread) if unread && !unread.empty?
      return_overflow if @overflow
    rescue SystemCallError, IOError
      nil
    end

    # As IO's, and not beyond the request, if its length is known. Empty lines before it are skipped, as RFC 9112 wants it.
    def read_nonblock(size, buffer = nil, exception: true)
      check_hold
      size = [size, @left].min if @left&.positive?
      data = buffer ? super(size, buffer, exception: exception) : super(size, exception: exception)
      return data unless data.is_a?(String)

      @left -= data.bytesize if @left
      return data unless @before_request

      data.sub!(/\A[\r\n]+/n, "") if data.start_with?("\r", "\n")
      return read_nonblock(size, buffer, exception: exception) if data.empty?

      @before_request = false
      data
    end

    # Writes what goes without waiting, the rest into a file (+take_overflow+). Returns how much of +data+ is cared for.
    # Raises IO::WaitWritable if there is no room for more.
    def syswrite(data)
      check_hold
      return overflow(data) if @overflow

      written = write_nonblock(data, exception: false)
      return written unless written == :wait_writable
      raise_full unless @may_overflow && data.bytesize <= OVERFLOW_LIMIT

      @overflow = open_overflow
      overflow(data)
    end

    # As IO's, behind what waits in the file.
    def <<(data)
      return super unless @overflow

      syswrite(data)
      self
    end

    # The file with what the client has not taken, or nil. It is then the caller's.
    def take_overflow
      taken, @overflow = @overflow, nil
      taken
    end

    # No response overflows from now on.
    def stop_overflow
      @may_overflow = false
    end

    # Whether the client has ended its side and still takes a response.
    def half_closed?
      is_a?(TCPSocket) && getsockopt(Socket::IPPROTO_TCP, Socket::TCP_INFO).unpack("C").first == CLOSE_WAIT
    end

    # The state's number in Linux's tcp_states.h.
    CLOSE_WAIT = 8
    private_constant :CLOSE_WAIT

    # The sidecar has taken the connection back: whoever reads or writes from now on gets IOError.
    def sever
      @severed = true
    end

    def severed?
      @severed == true
    end

    # Whether a part of a response waits in a file.
    def overflowing?
      !@overflow.nil?
    end

    def close
      take_overflow&.close
      super
    end

    private

    def check_hold
      raise IOError, "the sidecar has taken this connection back" if @severed
    end

    def overflow(data)
      return @overflow.write(data) if @overflow.size + data.bytesize <= OVERFLOW_LIMIT

      return_overflow
      syswrite(data)
    rescue Errno::ENOSPC, Errno::EFBIG
      return_overflow
      raise_full
    end

    def open_overflow
      Overflow.new
    rescue SystemCallError
      raise_full
    end

    def raise_full
      raise IO::EAGAINWaitWritable, "the client takes nothing"
    end

    # Sends what waits in the file, however long the client takes for it.
    def return_overflow
      waiting = take_overflow
      waiting.each_part { |part| write_all(part) }
    ensure
      waiting&.close
    end

    def write_all(data)
      until data.empty?
        written = write_nonblock(data, exception: false)
        if written == :wait_writable
          check_hold
          raise Errno::ETIMEDOUT, "the client takes nothing" unless wait_writable(WRITE_TIMEOUT)
        else
          data = data.byteslice(written..)
        end
      end
    end

    # Seconds that a client may take nothing, once its response has filled the file.
    WRITE_TIMEOUT = 10
    private_constant :WRITE_TIMEOUT
  end

  # A client that came over TCP.
  class TCPClient < TCPSocket
    include LentSocket
  end

  # A client that came over a Unix socket.
  class UnixClient < UNIXSocket
    include LentSocket
  end
end
