# frozen_string_literal: true

require "socket"

module Anteroom
  # One connection to the sidecar: frames and descriptors in both directions.
  #
  # +receive+ is for one thread, the rest may be called from any. After a LinkLost the link is of no use but to be closed.
  class Link
    # Seconds that a sidecar may take to make room for a frame.
    SEND_TIMEOUT = 10

    # The protocol allows one descriptor per message. Room for more, so that a surplus is seen and closed.
    CONTROL_SIZE = 256
    RECEIVE_SIZE = 65_536
    KNOWN = Type.constants.map { |name| Type.const_get(name) }.select { |type| type >= Type::WELCOME }.to_h { |type| [type, true] }.freeze
    private_constant :CONTROL_SIZE, :RECEIVE_SIZE, :KNOWN

    @open = ObjectSpace::WeakMap.new

    class << self
      # For each link that is open: closed in a child process, which would else keep it open when this process ends.
      def forget_all
        @open.each_key(&:close)
      end

      def opened(link)
        @open[link] = true
      end
    end

    # Prepended to Process's methods: what every fork goes through, from Ruby 3.1 on.
    module ForkGuard
      def _fork
        super.tap { |child| Link.forget_all if child.zero? }
      end
    end
    Process.singleton_class.prepend(ForkGuard)

    # Connects to the sidecar at +path+. Raises Unreachable.
    def self.open(path)
      new(UNIXSocket.new(path))
    rescue SystemCallError, ArgumentError => e # the latter for a path that is too long
      raise Unreachable.because(path, e)
    end

    # Takes ownership of a connected UNIXSocket.
    def initialize(socket)
      @socket = socket
      @unread = String.new(encoding: Encoding::BINARY)
      @descriptors = [] # arrived, not yet claimed by a frame
      @lost = 0 # descriptors for which there was no room in this process
      @sending = Mutex.new
      Link.opened(self)
    end

    # Sends encoded frames; with +io+, one frame and its descriptor, which stays the caller's. Raises LinkLost.
    def send(data, io = nil)
      @sending.synchronize do
        sent = write(data, io ? [Socket::AncillaryData.unix_rights(io)] : [])
        sent += write(data.byteslice(sent..), []) while sent < data.bytesize # the descriptor went with the first byte
      end
    rescue SystemCallError, IOError => e
      raise LinkLost, "The link to the sidecar broke: #{e.message}"
    end

    # Waits for something to arrive, for +timeout+ seconds at most (nil: for ever), and reads once. Returns the frames that are complete,
    # each with the IO that came with it or nil, which is then the caller's. PING is answered here, and a LEASE whose descriptor was lost;
    # neither is returned. Raises LinkLost.
    def receive(timeout = nil)
      return [] unless timeout.nil? || @socket.wait_readable(timeout)

      read
      frames
    rescue SystemCallError, IOError => e
      raise LinkLost, "The link to the sidecar broke: #{e.message}"
    end

    # Hangs up; a thread that waits in +receive+ gets LinkLost. May be called more than once.
    def close
      @socket.close
      @descriptors.each(&:close).clear
    end

    private

    def write(data, rights)
      loop do
        sent = @socket.sendmsg_nonblock(data, 0, nil, *rights, exception: false)
        return sent unless sent == :wait_writable
        raise LinkLost, "The sidecar has read nothing for #{SEND_TIMEOUT} s." unless @socket.wait_writable(SEND_TIMEOUT)
      end
    end

    # Both lengths are given: without them Ruby peeks, which duplicates descriptors. It sets MSG_CMSG_CLOEXEC by itself, and without
    # scm_rights it closes what arrives.
    def read
      data, _, flags, *controls = @socket.recvmsg(RECEIVE_SIZE, 0, CONTROL_SIZE, scm_rights: true)
      arrived = controls.select { |control| control.cmsg_is?(:SOCKET, :RIGHTS) }.flat_map(&:unix_rights)
      @descriptors.concat(arrived)
      raise ProtocolError, "The sidecar sent #{arrived.size} descriptors in one message." if arrived.size > 1
      raise LinkLost, "The sidecar hung up." if data.nil? || data.empty?

      @lost += 1 if arrived.empty? && flags & Socket::MSG_CTRUNC != 0
      @unread << data
    end

    def frames
      received = []
      start = 0
      while (frame, following = Frame.decode(@unread, start))
        sort(frame, received)
        start = following
      end
      @unread = @unread.byteslice(start..)
      received
    rescue BadFrame, LinkLost => e
      received.each { |_, io| io&.close }
      raise e.is_a?(BadFrame) ? ProtocolError.new("The sidecar sent #{e.message}.") : e
    end

    def sort(frame, received)
      io = take_descriptor if frame.descriptor?
      if frame.type == Type::PING
        send(Frame.encode(Type::PONG, a: frame.a))
      elsif io == :lost
        send(Frame.encode(Type::NACK, seq: frame.seq, conn: frame.conn, a: NackReason::NO_DESCRIPTOR)) if frame.type == Type::LEASE
      elsif KNOWN[frame.type]
        received << [frame, io]
      else
        io&.close # a word of a later version, which may be ignored
      end
    end

    def take_descriptor
      return @descriptors.shift unless @descriptors.empty?
      raise ProtocolError, "The sidecar announced a descriptor that did not come." if @lost.zero?

      @lost -= 1
      :lost
    end
  end
end
