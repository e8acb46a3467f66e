# frozen_string_literal: true

require "json"
require_relative "frame"
require_relative "lease"
require_relative "lent_socket"
require_relative "link"

module Anteroom
  # One attachment to a sidecar, from HELLO to the end of its link: what is leased over it, and what of it is kept for later leases.
  #
  # +receive+ is for one thread, the one that owns the session; the rest may be called from any.
  class Session
    # What WELCOME said, nil before it has come.
    attr_reader :welcome

    # The least kept connections that are let go of at once when the process is out of descriptors: each lease that is refused
    # delays a request.
    LEAST_DROPPED = 16

    # Says HELLO. +keep+ is how many descriptors of idle connections are kept. +on_shortage+ is called, with the number of kept
    # connections that were let go of, each time a descriptor was lost because the process has no room for it. Raises LinkLost.
    def initialize(link, hello, keep:, on_shortage: ->(dropped) {})
      @link = link
      @keep = keep
      @on_shortage = on_shortage
      @lock = Mutex.new # the following change under it
      @leases = {} # what is out, by the connection's id
      @idle = {} # connections whose descriptors are kept, least recently used first
      @home = ConditionVariable.new # told when the last lease is answered
      @receiving = Mutex.new # frames are read and attended to in order
      @draining = @drained = @over = false
      greet(hello)
    end

    # Waits for +timeout+ seconds at most (nil: for ever), reads once, and yields the leases that came. Raises LinkLost.
    def receive(timeout = nil, &on_lease)
      @link.wait(timeout)
      @receiving.synchronize do
        raise @trouble if @trouble

        attend_all(&on_lease)
      end
    end

    # As +receive+, without waiting, unless another thread reads just now. Never raises: what has ended the link, +receive+ will.
    def poll(&on_lease)
      Thread.handle_interrupt(UNINTERRUPTED) do # what was read must not be lost to a Timeout
        return unless @receiving.try_lock

        begin
          attend_all(&on_lease) unless @trouble
        rescue Error => e
          @trouble = e
          @link.shutdown
        ensure
          @receiving.unlock
        end
      end
    end

    UNINTERRUPTED = { Object => :never }.freeze
    private_constant :UNINTERRUPTED

    def agreed?(feature)
      @welcome&.fetch("features", nil)&.include?(feature)
    end

    # Whether +lease+ may still be answered.
    def out?(lease)
      @lock.synchronize { @leases[lease.connection.id].equal?(lease) }
    end

    # How many leases are not answered.
    def leases
      @lock.synchronize { @leases.size }
    end

    # Whether no lease comes any more: the sidecar has confirmed that this host leaves, or the link is gone.
    def drained?
      @drained || @over
    end

    def draining?
      @draining
    end

    # Says that this host leaves. Never raises.
    def drain
      return if @draining

      @draining = true
      @welcome ? tell(Type::DRAIN) : @link.close # before WELCOME nothing is held, and who knows when the sidecar reads
    end

    # Waits until no lease is out, for at most +timeout+ seconds (nil: for ever). Returns whether that is so.
    def wait_home(timeout)
      deadline = timeout && now + timeout
      @lock.synchronize do
        until @leases.empty?
          left = deadline && deadline - now
          return false if left && left <= 0

          @home.wait(@lock, left)
        end
        true
      end
    end

    def capacity=(capacity)
      tell(Type::CAPACITY, a: capacity)
    end

    # Ends it: what is out can still be served, not put. Never raises.
    def end
      @over = true
      idle = @lock.synchronize do
        @leases.clear
        @home.broadcast
        @idle.values.tap { @idle.clear }
      end
      idle.each(&:close)
      @link.close
    end

    # The answers of leases.

    def put(lease, milliseconds, requests)
      give_back(lease) { Frame.encode(Type::PUT, seq: lease.seq, conn: lease.connection.id, a: milliseconds, b: requests) }
    end

    # +milliseconds+: how long the connection is kept afterwards, nil if it is closed.
    def finish(lease, file, offset, length, milliseconds)
      flags = Flag::FD | (milliseconds ? 0 : Flag::CLOSE)
      payload = milliseconds.to_i.positive? ? JSON.generate(keep_alive_timeout_ms: milliseconds) : ""
      give_back(lease, keep: !milliseconds.nil?, file: file) do
        frame(Type::FINISH, lease, flags: flags, a: offset, b: length, payload: payload)
      end
    end

    def close_connection(lease, reason, requests)
      give_back(lease, keep: false) { frame(Type::CLOSE, lease, a: reason, b: requests) }
    end

    def nack(lease, reason)
      give_back(lease, keep: false) { frame(Type::NACK, lease, a: reason) }
    end

    def detach(lease)
      lease.answer && claim(lease) && answer(frame(Type::DETACH, lease))
    end

    private

    def greet(hello)
      payload = JSON.generate(hello)
      @link.send(Frame.encode(Type::HELLO, a: MAGIC | PROTOCOL_VERSION << 32, payload: payload))
    rescue LinkLost
      nil # the sidecar may have refused us before it read that, and receive tells why
    end

    def frame(type, lease, **fields)
      Frame.encode(type, seq: lease.seq, conn: lease.connection.id, **fields)
    end

    # Sends the answer that the block gives, and keeps the connection for its next lease or lets go of it. From the moment it is sent, that
    # lease may come: so the connection is put among the idle ones first.
    def give_back(lease, keep: true, file: nil)
      connection = lease.connection
      keep &&= caching?
      return false unless lease.answer

      unless claim(lease, keep: keep)
        connection.close
        return false
      end
      answered = answer(yield, file)
      connection.close unless keep
      shrink if keep && @idle.size > @keep
      answered
    end

    def caching?
      @keep.positive? && agreed?("cache")
    end

    # Takes the lease from those that are out. Returns false if it is none of them.
    def claim(lease, keep: false)
      connection = lease.connection
      @lock.synchronize do
        return false unless @leases[connection.id].equal?(lease)

        @leases.delete(connection.id)
        @idle[connection.id] = connection if keep
        @home.broadcast if @leases.empty?
      end
      true
    end

    # Lets go of the least recently used of too many.
    def shrink
      drop(@lock.synchronize { @idle.size > @keep ? [@idle.shift] : [] })
    end

    # Lets go of a quarter of the kept connections, least recently used first, for the sake of their descriptors. Returns how many.
    def make_room
      drop(@lock.synchronize { Array.new([[@idle.size / 4, LEAST_DROPPED].max, @idle.size].min) { @idle.shift } })
    end

    def drop(kept)
      kept.each do |id, connection|
        connection.close
        tell(Type::DROPPED, conn: id)
      end
      kept.size
    end

    def answer(data, file = nil)
      @link.send(data, file)
      true
    rescue LinkLost
      false
    end

    # Sends a frame that nobody waits for. That the link is gone, receive finds out.
    def tell(type, **fields)
      answer(Frame.encode(type, **fields))
    end

    def attend_all(&on_lease)
      @link.receive.each { |frame, io| attend(frame, io, &on_lease) }
    end

    def attend(frame, io, &on_lease)
      case frame.type
      when Type::LEASE then on_lease(frame, io, &on_lease)
      when Type::FORGET then on_forget(frame)
      when Type::WELCOME then @welcome = object(frame)
      when Type::DRAINING then on_draining
      when Type::REFUSE then raise Refused.new(frame.a, sentence(frame))
      when Type::ERROR then raise Ended.new(frame.a, sentence(frame))
      end
    end

    def on_lease(frame, io)
      return on_lost_descriptor(frame) if io == Link::Lost

      connection = connection_of(frame, io)
      return refuse(frame, NackReason::UNKNOWN) unless connection

      connection.peer = address_in(object(frame)["peer"]) unless frame.payload.empty?
      yield @lock.synchronize { @leases[frame.conn] = Lease.new(self, connection, frame) }
    end

    # The process is out of descriptors: makes room, so that the lease can come again, and refuses it for now.
    def on_lost_descriptor(frame)
      dropped = make_room
      refuse(frame, NackReason::NO_DESCRIPTOR)
      @on_shortage.call(dropped)
    end

    def refuse(frame, reason)
      tell(Type::NACK, seq: frame.seq, conn: frame.conn, a: reason)
    end

    # The connection that is lent, or nil if it was dropped here while the lease was on its way.
    def connection_of(frame, io)
      held = @lock.synchronize { @idle.delete(frame.conn) }
      return held unless io

      held&.close
      Connection.new(frame.conn, LentSocket.adopt(io))
    end

    def on_forget(frame)
      idle, lease = @lock.synchronize { [@idle.delete(frame.conn), @leases.delete(frame.conn)] }
      idle&.close
      lease&.socket&.sever
      @lock.synchronize { @home.broadcast if @leases.empty? }
    end

    # The answer to our own wish; else the sidecar's, which we agree to.
    def on_draining
      if @draining
        @drained = true
      else
        drain
      end
    end

    def object(frame)
      value = JSON.parse(frame.payload)
      value.is_a?(Hash) ? value : raise(ProtocolError, "The sidecar sent JSON that is not an object.")
    rescue JSON::ParserError => e
      raise ProtocolError, "The sidecar sent JSON that does not parse: #{e.message}"
    end

    # The IP address of "192.0.2.1:80" or "[2001:db8::1]:80".
    def address_in(peer)
      peer.to_s[/\A\[(.*)\]:\d+\z/, 1] || peer.to_s[/\A(.*):\d+\z/, 1]
    end

    def sentence(frame)
      frame.payload.dup.force_encoding(Encoding::UTF_8).scrub
    end

    def now
      Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end
  end
end
