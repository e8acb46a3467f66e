# frozen_string_literal: true

require "socket"

# A plain HTTP client that sees the bytes: one connection, responses with their framing taken off.
class Client
  PATIENCE = 20
  Response = Struct.new(:status, :fields, :body) do
    def [](name)
      fields[name]
    end
  end

  attr_reader :socket

  def initialize(port)
    @socket = TCPSocket.new("127.0.0.1", port)
    @buffer = String.new(encoding: Encoding::BINARY)
  end

  def get(target, **fields)
    request("GET", target, **fields)
    response
  end

  def request(verb, target, body: nil, version: "1.1", **fields)
    fields = { "Host" => "test", "Content-Length" => body&.bytesize }.merge(fields.transform_keys(&:to_s)).compact
    send("#{verb} #{target} HTTP/#{version}\r\n#{fields.map { |field| "#{field.join(": ")}\r\n" }.join}\r\n#{body}")
  end

  def send(data)
    @socket.write(data)
  end

  def response(head: false)
    status, *lines = upto("\r\n\r\n").split("\r\n")
    fields = lines.to_h { |line| line.split(": ", 2).then { |name, value| [name.downcase, value] } }
    Response.new(status[9, 3].to_i, fields, head ? "" : body(status[9, 3].to_i, fields))
  end

  # What comes until the server ends the connection.
  def rest
    fill while true # rubocop:disable Style/InfiniteLoop
  rescue EOFError
    @buffer
  end

  def close
    @socket.close
  end

  private

  def body(status, fields)
    return "" if status < 200 || [204, 304].include?(status)
    return chunks if fields["transfer-encoding"] == "chunked"
    return take(fields["content-length"].to_i) if fields["content-length"]

    rest
  end

  def chunks
    text = String.new(encoding: Encoding::BINARY)
    loop do
      size = upto("\r\n").hex
      text << take(size)
      take(2)
      return text if size.zero?
    end
  end

  def upto(mark)
    fill until (index = @buffer.index(mark))
    take(index + mark.bytesize)
  end

  def take(length)
    fill while @buffer.bytesize < length
    @buffer.slice!(0, length)
  end

  def fill
    raise "the server has said nothing for #{PATIENCE} s" unless @socket.wait_readable(PATIENCE)

    @buffer << @socket.readpartial(1 << 16)
  end
end
