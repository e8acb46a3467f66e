# frozen_string_literal: true

require "json"
require "socket"
require "anteroom"

# The sidecar's end of the protocol, played by hand: a test says what it sends and what it waits for.
class FakeSidecar
  PATIENCE = 20

  def initialize(path)
    @server = UNIXServer.new(path)
  end

  def accept
    raise "no host has connected within #{PATIENCE} s" unless @server.wait_readable(PATIENCE)

    Peer.new(@server.accept)
  end

  # Accepts a host and welcomes it.
  def welcome(features: ["cache", "address", "finish"])
    accept.tap { |peer| peer.welcome(features) }
  end

  def close
    @server.close
  end

  # One attached host.
  class Peer
    attr_reader :hello

    def initialize(socket)
      @socket = socket
      @unread = String.new(encoding: Encoding::BINARY)
      @descriptors = []
    end

    def welcome(features)
      @hello = JSON.parse(expect(Anteroom::Type::HELLO).payload)
      send_frame(Anteroom::Type::WELCOME, a: 1, payload: JSON.generate(
        host: 1, pool: @hello["pool"], capacity: @hello["capacity"], features: features & @hello["features"], epoch: "e"
      ))
    end

    # Lends +io+ (nil: what the host holds).
    def lease(conn, seq, io = nil, flags: 0, a: 0, payload: "")
      flags |= Anteroom::Flag::FD if io
      write(Anteroom::Frame.encode(Anteroom::Type::LEASE, flags: flags, conn: conn, seq: seq, a: a, payload: payload), io)
    end

    def send_frame(type, **fields)
      write(Anteroom::Frame.encode(type, **fields))
    end

    def write(data, io = nil)
      @socket.sendmsg(data, 0, nil, *(io ? [Socket::AncillaryData.unix_rights(io)] : []))
    end

    # The next frame, which must be of that type. Its descriptor, if any, is then in +descriptor+.
    def expect(type)
      frame = read
      raise format("the host said 0x%02x, not 0x%02x", frame.type, type) unless frame.type == type

      frame
    end

    def descriptor
      @descriptors.shift
    end

    # Whether the host says nothing for +seconds+.
    def quiet?(seconds = 0.1)
      @unread.empty? && !@socket.wait_readable(seconds)
    end

    def read
      until (frame, length = Anteroom::Frame.decode(@unread))
        raise "the host has said nothing for #{PATIENCE} s" unless @socket.wait_readable(PATIENCE)

        fill
      end
      @unread = @unread.byteslice(length..)
      frame
    end

    # Whether the host has hung up.
    def hung_up?
      fill
      false
    rescue EOFError, Errno::ECONNRESET
      true
    end

    def close
      @socket.close
    end

    private

    def fill
      data, _, _, *controls = @socket.recvmsg(65_536, 0, 256, scm_rights: true)
      raise EOFError, "the host has hung up" if data.nil? || data.empty?

      @descriptors.concat(controls.flat_map(&:unix_rights))
      @unread << data
    end
  end
end
