# frozen_string_literal: true

require "support/helper"
require "anteroom/http/reader"

# The parser: what it takes and what it refuses.
class TestRequest < Minitest::Test
  include Helper
  HOST = "Host: x\r\n"

  # Reads +data+ as requests until the client's end. A string in the result is a body, a number a refusal.
  def read(data, pieces: 1 << 14)
    server, client = UNIXSocket.pair
    socket = Anteroom::LentSocket.adopt(server)
    socket.expect(nil, overflow: false)
    writer = Thread.new { data.b.scan(/.{1,#{pieces}}/mn) { |piece| client.write(piece) } && client.close_write }
    reader = Anteroom::HTTP::Reader.new(socket)
    requests = []
    loop { requests << reader.read }
  rescue Anteroom::HTTP::Refusal => e
    [*requests, e.status]
  rescue Anteroom::HTTP::ClientGone
    requests
  ensure
    writer.join
    [socket, client].each(&:close)
  end

  def self.refuses(name, status, data)
    define_method("test_refused: #{name}") { assert_equal [status], read(data) }
  end

  refuses "no version", 400, "GET /\r\n\r\n"
  refuses "another protocol", 400, "GET / HTTP/2.0\r\n#{HOST}\r\n"
  refuses "three spaces", 400, "GET / x HTTP/1.1\r\n#{HOST}\r\n"
  refuses "a control character in the target", 400, "GET /\x01 HTTP/1.1\r\n#{HOST}\r\n"
  refuses "a bare LF", 400, "GET / HTTP/1.1\r\n#{HOST}A: b\nC: d\r\n\r\n"
  refuses "a bare CR", 400, "GET / HTTP/1.1\r\n#{HOST}A: b\rC: d\r\n\r\n"
  refuses "NUL", 400, "GET / HTTP/1.1\r\n#{HOST}A: b\0\r\n\r\n"
  refuses "a space before the colon", 400, "GET / HTTP/1.1\r\n#{HOST}A : b\r\n\r\n"
  refuses "a folded line", 400, "GET / HTTP/1.1\r\n#{HOST}A: b\r\n c\r\n\r\n"
  refuses "no colon", 400, "GET / HTTP/1.1\r\n#{HOST}A\r\n\r\n"
  refuses "no Host", 400, "GET / HTTP/1.1\r\n\r\n"
  refuses "two Hosts", 400, "GET / HTTP/1.1\r\n#{HOST}#{HOST}\r\n"
  refuses "two lengths", 400, "POST / HTTP/1.1\r\n#{HOST}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"
  refuses "a list of lengths", 400, "POST / HTTP/1.1\r\n#{HOST}Content-Length: 1, 1\r\n\r\na"
  refuses "a negative length", 400, "POST / HTTP/1.1\r\n#{HOST}Content-Length: -1\r\n\r\n"
  refuses "a length with a sign", 400, "POST / HTTP/1.1\r\n#{HOST}Content-Length: +1\r\n\r\na"
  refuses "a body beyond the limit", 413, "POST / HTTP/1.1\r\n#{HOST}Content-Length: #{(1 << 30) + 1}\r\n\r\n"
  refuses "length and chunked", 400, "POST / HTTP/1.1\r\n#{HOST}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
  refuses "chunked in HTTP/1.0", 400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
  refuses "another encoding", 501, "POST / HTTP/1.1\r\n#{HOST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
  refuses "chunked twice", 501, "POST / HTTP/1.1\r\n#{HOST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
  refuses "a chunk that is too long", 400, "POST / HTTP/1.1\r\n#{HOST}Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n"
  refuses "a size that is no number", 400, "POST / HTTP/1.1\r\n#{HOST}Transfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n"
  refuses "a size that ends with LF", 400, "POST / HTTP/1.1\r\n#{HOST}Transfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n"
  refuses "a bare CR in an extension", 400, "POST / HTTP/1.1\r\n#{HOST}Transfer-Encoding: chunked\r\n\r\n2;a\rb\r\nab\r\n0\r\n\r\n"
  refuses "an endless head", 431, "GET / HTTP/1.1\r\n#{HOST}A: #{"a" * 70_000}\r\n\r\n"
  refuses "an endless size", 400, "POST / HTTP/1.1\r\n#{HOST}Transfer-Encoding: chunked\r\n\r\n2;#{"a" * 5000}\r\nab\r\n0\r\n\r\n"
  refuses "endless trailers", 431, "POST / HTTP/1.1\r\n#{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n#{"a: b\r\n" * 12_000}\r\n"

  TAKEN = {
    "lengths" => ["POST / HTTP/1.1\r\n#{HOST}Content-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n", ["abc", ""]],
    "chunks" => ["POST / HTTP/1.1\r\n#{HOST}Transfer-Encoding: Chunked\r\n\r\n2;x=y\r\nab\r\nA\r\n0123456789\r\n0\r\nT: x\r\n\r\n" \
                 "GET / HTTP/1.1\r\n#{HOST}\r\n", ["ab0123456789", ""]],
    "a long body" => ["POST / HTTP/1.1\r\n#{HOST}Content-Length: 300000\r\n\r\n#{"x" * 300_000}", ["x" * 300_000]]
  }.freeze

  TAKEN.each do |name, (data, bodies)|
    define_method("test_taken: #{name}") { assert_equal bodies, (read(data).map { |request| request.body.read }) }
    define_method("test_in_pieces: #{name}") do
      pieces = data.bytesize > 1000 ? 997 : 1
      assert_equal bodies, (read(data, pieces: pieces).map { |request| request.body.read })
    end
  end

  def test_a_request_that_does_not_end_is_the_clients_business
    assert_equal [], read("POST / HTTP/1.1\r\n#{HOST}Content-Length: 3\r\n\r\nab")
    assert_equal [], read("GET / HT")
  end

  # Whatever bytes are changed, a request is taken, refused or not whole; no other error comes of it.
  def test_mutated
    random = Random.new(1)
    500.times do |round|
      data = TAKEN.values[round % 2].first.b
      random.rand(1..3).times { data.setbyte(random.rand(data.bytesize), "\r\n :,;09azGH/.\0\xff".b.bytes.sample(random: random)) }
      read(data, pieces: random.rand(1..data.bytesize)).each { |each| assert(each.is_a?(Anteroom::HTTP::Request) || [400, 413, 501].include?(each)) }
    end
  end

  def test_fields
    request, = read("GET /a?b HTTP/1.1\r\nHOST:x\r\nA:  b c \t\r\na: d\r\nEmpty:\r\n\r\n")
    assert_equal ["GET", "/a?b", "HTTP/1.1", "b c, d", ""], [request.verb, request.target, request.version, request["a"], request["empty"]]
    assert_nil request["b"]
  end

  def test_who_wants_to_keep_the_connection
    keeps = ->(version, connection) { read("GET / HTTP/#{version}\r\n#{HOST}#{connection}\r\n").first.keep_alive? }
    assert_equal [true, false, false, true], [
      keeps["1.1", ""], keeps["1.1", "Connection: x, Close\r\n"], keeps["1.0", ""], keeps["1.0", "Connection: Keep-Alive\r\n"]
    ]
  end
end
