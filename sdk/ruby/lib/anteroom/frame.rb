# frozen_string_literal: true

module Anteroom
  MAGIC = "ANTR".unpack1("V")
  PROTOCOL_VERSION = 1
  MAX_PAYLOAD = 8192
  MAX_CAPACITY = 4096
  MAX_KEEP_ALIVE_MS = 7 * 24 * 3600 * 1000

  # What a frame means. Below 0x20 hosts speak, from there on the sidecar.
  module Type
    HELLO = 0x01
    PUT = 0x02
    CLOSE = 0x03
    DETACH = 0x04
    NACK = 0x05
    FINISH = 0x09
    CAPACITY = 0x0a
    DROPPED = 0x0b
    DRAIN = 0x0c # DRAINING, said by the host
    PONG = 0x0d

    WELCOME = 0x21
    REFUSE = 0x22
    LEASE = 0x23
    FORGET = 0x24
    DRAINING = 0x28 # DRAINING, said by the sidecar
    PING = 0x29
    ERROR = 0x2a
  end

  # The bits of a frame's flags.
  module Flag
    FD = 0x01
    FRESH = 0x02
    LAST = 0x04
    SILENT = 0x08
    CLOSE = 0x20
  end

  # Why a host ends a connection.
  module CloseReason
    DONE = 0
    CLIENT = 1
    TOO_SLOW = 2
    APP = 3
    OVERLOAD = 4
  end

  # Why a host cannot take a lease.
  module NackReason
    NO_DESCRIPTOR = 1
    UNKNOWN = 2
    OVERLOAD = 3
  end

  # Why the sidecar refuses or ends something, by number.
  CODES = [
    nil, :BAD_FRAME, :BAD_MAGIC, :BAD_VERSION, :BAD_PAYLOAD, :HELLO_TWICE, :HELLO_LATE, :TOO_LONG, :NO_DESCRIPTOR, :STRAY_DESCRIPTOR,
    :BAD_DESCRIPTOR, :NOT_YOURS, :AT_LIMIT, :TOO_SLOW, :NOT_ALLOWED, :STOPPING, :OUT_OF_DESCRIPTORS, :NOT_AGREED, :NOT_ANSWERING
  ].freeze

  # Bytes that are no frame. Where the next one begins is unknown, so this is final for a stream. +code+ is one of CODES.
  class BadFrame < ArgumentError
    attr_reader :code

    def initialize(code, message)
      super(message)
      @code = code
    end
  end

  # One message of the handoff protocol (handoff/PROTOCOL.md), without the descriptor that may come with it.
  Frame = Struct.new(:type, :flags, :seq, :conn, :a, :b, :payload) do
    # The bytes of a frame. Raises ArgumentError if the payload is too long.
    def self.encode(type, flags: 0, seq: 0, conn: 0, a: 0, b: 0, payload: "")
      raise ArgumentError, "a payload of #{payload.bytesize} bytes, #{MAX_PAYLOAD} are allowed" if payload.bytesize > MAX_PAYLOAD

      header = [type, flags, payload.bytesize, seq, conn, a, b].pack(self::LAYOUT)
      payload.empty? ? header : header << payload.b
    end

    # Reads the frame that begins at byte +start+. Returns it and where the next one begins, or nil if it is not all there.
    # Raises BadFrame as soon as the header shows that the frame cannot be taken.
    def self.decode(data, start = 0)
      body = start + self::HEADER_SIZE
      return if data.bytesize < body

      type, flags, length, seq, conn, a, b = data.unpack(self::LAYOUT, offset: start)
      check(type, length)
      [new(type, flags, seq, conn, a, b, data.byteslice(body, length)), body + length] if data.bytesize >= body + length
    end

    # Whether +data+ is whole frames, none of them with a descriptor.
    def self.plain?(data)
      start = 0
      while start + self::HEADER_SIZE <= data.bytesize
        _, flags, length = data.unpack("CCv", offset: start)
        return false if flags & Flag::FD != 0

        start += self::HEADER_SIZE + length
      end
      start == data.bytesize
    end

    def self.check(type, length)
      raise BadFrame.new(:BAD_FRAME, format("a frame of type 0x%02x, which is unknown here and may not be ignored", type)) if type >= 0x80
      raise BadFrame.new(:TOO_LONG, "a frame with a payload of #{length} bytes, #{MAX_PAYLOAD} are allowed") if length > MAX_PAYLOAD
    end
    private_class_method :check

    # Whether a descriptor comes with it.
    def descriptor?
      flags & Flag::FD != 0
    end
  end
  Frame::LAYOUT = "CCvVQ<Q<Q<"
  Frame::HEADER_SIZE = 32
end
