# frozen_string_literal: true

require "socket"

module Anteroom
  # One connection to the sidecar: frames and descriptors in both directions.
  #
  # +receive+ is for one thread at a time, the rest may be called from any. After a LinkLost the link is of no use but to be closed.
  #
  # Ruby's sendmsg and recvmsg let go of the interpreter's lock even where they do not wait, and a thread that lets go of it may have to
  # queue for it for 100 ms. So they are only used where a descriptor goes or comes.
  class Link
    # Seconds that a sidecar may take to make room for a frame.
    SEND_TIMEOUT = 10

    # The protocol allows one descriptor per message. Room for more, so that a surplus is seen and closed.
    CONTROL_SIZE = 256
    RECEIVE_SIZE = 65_536
    PEEK_SIZE = 4096
    KNOWN = Type.constants.map { |name| Type.const_get(name) }.select { |type| type >= Type::WELCOME }.to_h { |type| [type, true] }.freeze
    private_constant :CONTROL_SIZE, :RECEIVE_SIZE, :PEEK_SIZE, :KNOWN

    # In place of a descriptor that was lost, because this process has no room for one more.
    module Lost
      def self.close; end
    end

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
      @ahead = String.new(encoding: Encoding::BINARY)
      @descriptors = [] # arrived, not yet claimed by a frame
      @lost = 0 # descriptors for which there was no room in this process
      @sending = Mutex.new
      Link.opened(self)
    end

    # Sends encoded frames; with +io+, one frame and its descriptor, which stays the caller's. Raises LinkLost.
    def send(data, io = nil)
      @sending.synchronize do
        sent = write(data, io)
        sent += write(data.byteslice(sent..)) while sent < data.bytesize # the descriptor went with the first byte
      end
    rescue SystemCallError, IOError => e
      raise LinkLost, "The link to the sidecar broke: #{e.message}"
    end

    # Waits for something to arrive, for +timeout+ seconds at most (nil: for ever). Raises LinkLost.
    def wait(timeout = nil)
      @socket.wait_readable(timeout)
    rescue SystemCallError, IOError => e
      raise LinkLost, "The link to the sidecar broke: #{e.message}"
    end

    # Reads once, without waiting. Returns the frames that are complete, each with the IO that came with it or nil, which is then the
    # caller's; Lost if the process was out of descriptors. PING is answered here and not returned. Raises LinkLost.
    def receive
      read ? frames : []
    rescue SystemCallError, IOError => e
      raise LinkLost, "The link to the sidecar broke: #{e.message}"
    end

    # Ends the link for both sides; a thread that waits finds that out. It is still to be closed.
    def shutdown
      @socket.shutdown
    rescue SystemCallError, IOError
      nil
    end

    # Hangs up; a thread that waits in +wait+ gets LinkLost. May be called more than once.
    def close
      @socket.close
      @descriptors.each(&:close).clear
    end

    private

    def write(data, io = nil)
      loop do
        sent = io ? send_with(data, io) : @socket.write_nonblock(data, exception: false)
        return sent unless sent == :wait_writable
        raise LinkLost, "The sidecar has read nothing for #{SEND_TIMEOUT} s." unless @socket.wait_writable(SEND_TIMEOUT)
      end
    end

    def send_with(data, io)
      @socket.sendmsg_nonblock(data, 0, nil, Socket::AncillaryData.unix_rights(io), exception: false)
    end

    # Returns whether anything has come.
    def read
      data = @unread.empty? ? peek : ""
      return false if data == :wait_readable

      data = plain?(data) ? @socket.read_nonblock(data.bytesize) : read_with_descriptors
      return false if data == :wait_readable
      raise LinkLost, "The sidecar hung up." if data.nil? || data.empty?

      @unread << data
      true
    end

    def peek
      @socket.recv_nonblock(PEEK_SIZE, Socket::MSG_PEEK, @ahead, exception: false) || ""
    end

    # Whether no descriptor comes with what was peeked at. It comes with the bytes of one write, of which its frame need not be the first.
    def plain?(ahead)
      !ahead.empty? && ahead.bytesize < PEEK_SIZE && Frame.plain?(ahead)
    end

    # Both lengths are given: without them Ruby peeks, which duplicates descriptors. It sets MSG_CMSG_CLOEXEC by itself, and without
    # scm_rights it closes what arrives.
    def read_with_descriptors
      data, _, flags, *controls = @socket.recvmsg_nonblock(RECEIVE_SIZE, 0, CONTROL_SIZE, scm_rights: true, exception: false)
      return data if data == :wait_readable

      arrived = controls.select { |control| control.cmsg_is?(:SOCKET, :RIGHTS) }.flat_map(&:unix_rights)
      @descriptors.concat(arrived)
      raise ProtocolError, "The sidecar sent #{arrived.size} descriptors in one message." if arrived.size > 1

      @lost += 1 if arrived.empty? && flags & Socket::MSG_CTRUNC != 0
      data
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
      Lost
    end
  end
end
