# frozen_string_literal: true

require "json"
require "support/helper"

# The codec against the vectors that every implementation runs.
class TestFrame < Minitest::Test
  VECTORS = File.expand_path("../../../handoff/testdata/vectors", __dir__)

  def self.vectors(name)
    JSON.parse(File.read("#{VECTORS}/#{name}.json")).each do |vector|
      define_method("test_#{name}: #{vector["name"]}") { send("check_#{name}", vector) }
    end
  end

  vectors "frames"
  vectors "incomplete_and_bad"

  def test_a_hello_is_what_the_vectors_call_good
    good = JSON.parse(File.read("#{VECTORS}/hello.json")).find { |vector| vector["want"] == "ok" }
    wanted, = Anteroom::Frame.decode([good["frame"]].pack("H*"))
    ours, theirs = UNIXSocket.pair
    hello = JSON.parse(wanted.payload)
    Anteroom::Session.new(Anteroom::Link.new(ours), hello, keep: 0)
    said, = Anteroom::Frame.decode(theirs.readpartial(4096))
    assert_equal [wanted.to_a[0..-2], hello], [said.to_a[0..-2], JSON.parse(said.payload)]
  end

  def test_a_payload_that_is_too_long_is_not_sent
    error = assert_raises(ArgumentError) { Anteroom::Frame.encode(Anteroom::Type::HELLO, payload: "x" * 8193) }
    assert_match(/8193 bytes/, error.message)
  end

  private

  def check_frames(vector)
    fields = ["flags", "seq", "conn", "a", "b"].to_h { |name| [name.to_sym, vector[name].to_i] }
    data = [vector["hex"]].pack("H*")
    assert_equal data, Anteroom::Frame.encode(vector["type"], **fields, payload: vector["payload"])

    wanted = [vector["type"], *fields.values, vector["payload"].b]
    frame, following = Anteroom::Frame.decode("??".b + data + data, 2)
    assert_equal [wanted, 2 + data.bytesize], [frame.to_a, following]
    [0, 1, 31, data.bytesize - 1].each { |length| assert_nil Anteroom::Frame.decode(data.byteslice(0, length)) }
  end

  def check_incomplete_and_bad(vector)
    data = [vector["hex"]].pack("H*")
    return assert_nil(Anteroom::Frame.decode(data)) if vector["want"] == "more"

    error = assert_raises(Anteroom::BadFrame) { Anteroom::Frame.decode(data) }
    assert_equal vector["want"], error.code.to_s
  end
end
