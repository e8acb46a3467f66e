# frozen_string_literal: true

require "json"

module Anteroom
  # A connection as this host knows it, from its first lease until the host lets go of its descriptor.
  class Connection
    # The sidecar's number for it.
    attr_reader :id

    # The client's socket: a LentSocket.
    attr_reader :socket

    # The client's IP address if it is not the socket's: a load balancer has told it to the sidecar.
    attr_accessor :peer

    # For the caller's own use.
    attr_accessor :tag

    def initialize(id, socket)
      @id = id
      @socket = socket
    end

    # The IP address of the socket's other end; empty for a Unix socket. Raises Errno::ENOTCONN if the client has reset the connection.
    def address
      @address ||= @socket.remote_address.ip? ? @socket.remote_address.ip_address : ""
    end

    # Lets go of the descriptor, which ends nothing. Never raises.
    def close
      @socket.close
    rescue SystemCallError, IOError
      nil
    end
  end

  # A connection that is lent to this host, because a request has arrived on it.
  #
  # Answer it once, from any thread: +put+, +finish+, +close+, +detach+ or +nack+. Answers never raise for a lease that was taken back or
  # whose link is gone: they return false.
  class Lease
    attr_reader :connection, :seq

    def initialize(session, connection, frame)
      @session = session
      @connection = connection
      @seq = frame.seq
      @flags = frame.flags
      @a = frame.a
      @b = frame.b
    end

    # The client's socket, as long as the lease lasts; after +detach+ for good.
    def socket
      @connection.socket
    end

    # Whether this is the connection's first request.
    def fresh?
      @flags & Flag::FRESH != 0
    end

    # Whether the answer must say "Connection: close": there is no room to keep one more connection.
    def last?
      @flags & Flag::LAST != 0
    end

    # Bytes of the request's head, nil if not known.
    def head_length
      length = @a & 0xffffffff
      length if length.positive?
    end

    # Bytes of the whole request, nil if not all of it has arrived.
    def request_length
      length = @a >> 32
      length if length.positive?
    end

    # Seconds that the request waited for a host.
    def waited
      @b / 1e6
    end

    # Whether it was answered or taken back, or its link is gone.
    def over?
      !@session.out?(self)
    end

    # Whether the sidecar has taken it back. A lease whose link is gone can still be served.
    def taken_back?
      socket.severed?
    end

    # Whether the rest of a response may be left to the sidecar.
    def may_finish?
      @session.agreed?("finish")
    end

    # For Session: whether this is its first answer, which alone counts. After it, the connection may be in another lease.
    def answer
      !@answered && @answered = true
    end

    # Begins to read the request: nothing beyond it is taken from the socket, if its length is known.
    def begin_request
      socket.expect(request_length || head_length, overflow: may_finish?)
    end

    # The connection is idle: the response is sent, the request is read to its end. It is kept for +keep_alive+ seconds (0: the pool's time).
    # What the socket has kept of the response (LentSocket#syswrite) is left to the sidecar to send before.
    def put(keep_alive: 0, requests: 1)
      rest = socket.take_overflow
      return finish(rest.file, length: rest.size, keep_alive: keep_alive) if rest

      @session.put(self, milliseconds(keep_alive), requests)
    ensure
      rest&.close
    end

    # The sidecar sends +length+ bytes of +file+ from +offset+ on as the client takes them, and then has the connection as after +put+, or
    # closes it. A regular file that has those bytes; it stays the caller's. Only if the feature "finish" was agreed (+may_finish?+).
    def finish(file, length:, offset: 0, keep_alive: 0, close: false)
      @session.finish(self, file, offset, length, close ? nil : milliseconds(keep_alive))
    end

    # Ends the connection, once the client has all that was written.
    def close(reason = CloseReason::DONE, requests: 1)
      rest = socket.take_overflow
      return finish(rest.file, length: rest.size, close: true) if rest

      @session.close_connection(self, reason, requests)
    ensure
      rest&.close
    end

    # Keeps the connection for good, as for a WebSocket: the sidecar lets go of it. The socket is then the caller's, even if this returns
    # false. +unread+ is what was read behind the request; the socket gives it again.
    def detach(unread = nil)
      socket.release(unread)
      @session.detach(self)
    end

    # Not now: the sidecar leases it again, to another host where there is one. Only if nothing was read.
    def nack(reason = NackReason::OVERLOAD)
      @session.nack(self, reason)
    end

    private

    def milliseconds(seconds)
      (seconds * 1000).round.clamp(0, MAX_KEEP_ALIVE_MS)
    end
  end
end
