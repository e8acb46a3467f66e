# frozen_string_literal: true

require "support/helper"
require "support/client"
require "support/fake_sidecar"
require "support/real_sidecar"
require "rack"
require "uri" # which rack/lint needs
require "rack/lint"
require "anteroom/server"

# The Rack server behind a real sidecar.
class TestServer < Minitest::Test
  include Helper

  BIG = Random.new(2).bytes(12 << 20).freeze

  def setup
    @sidecar = RealSidecar.new(ready: "bytes")
    @errors = StringIO.new
    @clients = []
  end

  def teardown
    @clients.each(&:close)
    @server&.drain
    assert @running.join(PATIENCE), "the server does not leave" if @running
    @sidecar.stop
    @sidecar.remove
  end

  def serve(app = nil, **options, &block)
    @server = Anteroom::Server.new(app || block, path: @sidecar.handoff, errors: @errors, **options)
    @running = Thread.new { @server.run }
    eventually("attaching") { @errors.string.include?("attached") }
  end

  def client
    Client.new(@sidecar.port).tap { |client| @clients << client }
  end

  def text(body, **headers)
    [200, { "content-type" => "text/plain" }.merge(headers.transform_keys(&:to_s)), [body]]
  end

  def test_the_environment_is_racks
    seen = nil
    app = lambda do |env|
      seen = env.dup
      body = env["rack.input"].read
      [200, { "Content-Type" => "text/plain", "Content-Length" => body.bytesize.to_s }, [body]]
    end
    serve(Rack::Lint.new(app))
    caller = client
    caller.request("POST", "/a/b?c=d", body: "hello", "X-Y" => "z", "Content-Type" => "text/plain", "X_Spoof" => "no", "Host" => "host.test:81")
    assert_equal "hello", caller.response.body, @errors.string
    wanted = { "REQUEST_METHOD" => "POST", "PATH_INFO" => "/a/b", "QUERY_STRING" => "c=d", "HTTP_X_Y" => "z", "CONTENT_LENGTH" => "5",
               "CONTENT_TYPE" => "text/plain", "SERVER_NAME" => "host.test", "SERVER_PORT" => "81", "REMOTE_ADDR" => "127.0.0.1", "SCRIPT_NAME" => "" }
    assert_equal wanted, seen.slice(*wanted.keys)
    refute seen.key?("HTTP_X_SPOOF")
  end

  def test_values_of_rack_2_and_3_and_none_that_break_lines
    serve { |_| [200, { "a" => "1\n2", "b" => ["3", "4"], "rack.x" => "no", "bad name" => "no", "c" => ["x\r\ny: z"] }, []] }
    caller = client
    caller.request("GET", "/", "Connection" => "close")
    assert_equal ["a: 1", "a: 2", "b: 3", "b: 4", "Content-Length: 0", "Connection: close"], caller.rest.split("\r\n")[1..]
  end

  def test_a_chunked_request_has_a_length_for_the_app
    serve { |env| text("#{env["CONTENT_LENGTH"]} #{env.key?("HTTP_TRANSFER_ENCODING")} #{env["rack.input"].read}") }
    caller = client
    caller.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert_equal "3 false abc", caller.response.body
  end

  def test_continue
    serve { |env| text(env["rack.input"].read) }
    caller = client
    caller.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert_equal 100, caller.response.status
    caller.send("ok")
    assert_equal "ok", caller.response.body
  end

  def test_refusals_are_answered_and_end_the_connection
    serve { |_| text("no") }
    caller = client
    caller.send("GET / HTTP/1.1\r\n\r\n")
    assert_match(/\AHTTP\/1.1 400 .*Connection: close.*wants one Host/m, caller.rest)
  end

  def test_an_app_that_fails
    serve { |env| env["PATH_INFO"] == "/" ? raise("oops") : text("fine") }
    caller = client
    assert_equal [500, 200], [caller.get("/").status, caller.get("/x").status]
    assert_match(/RuntimeError: oops/, @errors.string)
  end

  def test_a_response_that_is_none
    missing = Struct.new(:to_path) { def each; end }
    responses = { "/nil" => nil, "/status" => ["fine", {}, []], "/body" => [200, {}, 5], "/file" => [200, {}, missing.new("/nowhere")],
                  "/first" => [200, {}, Enumerator.new { |_| raise Errno::EPIPE }] }
    serve { |env| responses[env["PATH_INFO"]] }
    responses.each_key do |path|
      caller = client
      caller.request("GET", path)
      assert_match(%r{\AHTTP/1.1 500 }, caller.rest, path)
    end
    assert_match(/ENOENT/, @errors.string)
  end

  def test_a_body_that_fails_ends_the_connection
    failing = Enumerator.new { |out| out << "part" && raise("midway") }
    serve { |_| [200, {}, failing] }
    caller = client
    caller.request("GET", "/")
    refute_match(/\r\n0\r\n\r\n\z/, caller.rest)
  end

  def test_a_body_of_another_length_than_announced_is_not_sent
    serve do |env|
      parts = { "/long" => ["123456"], "/short" => ["1234"], "/late" => Enumerator.new { |out| ["12", "3456"].each { |part| out << part } } }
      [200, { "content-length" => "5" }, parts[env["PATH_INFO"]]]
    end
    ends = ["/long", "/short", "/late"].map { |path| client.tap { |caller| caller.request("GET", path) }.rest }
    assert_equal(["500", "500", "200"], ends.map { |all| all[9, 3] })
    assert_match(/\r\n\r\n12\z/, ends.last) # it had begun
    assert_match(/longer than its Content-Length/, @errors.string)
  end

  def test_bodies_are_closed
    closed = Queue.new
    body = Struct.new(:closed) { def each; yield "x"; end; def close; closed << true; end }
    serve { |_| [200, {}, body.new(closed)] }
    assert_equal "x", client.get("/").body
    assert closed.pop
  end

  def test_pipelined_requests_are_answered_in_order
    serve { |env| text(env["PATH_INFO"] + env["rack.input"].read) }
    caller = client
    5.times { |number| caller.request("POST", "/#{number}", body: "b") }
    assert_equal ["/0b", "/1b", "/2b", "/3b", "/4b"], (Array.new(5) { caller.response.body })
  end

  # A client whose kernel takes little as long as it does not read.
  def slow_client
    client.tap { |slow| slow.socket.setsockopt(Socket::SOL_SOCKET, Socket::SO_RCVBUF, 1 << 16) }
  end

  def test_a_slow_reader_costs_no_thread
    serve(threads: 1) { |env| text(env["PATH_INFO"] == "/big" ? BIG : "quick") }
    slow = slow_client
    slow.request("GET", "/big")
    assert_equal "quick", client.get("/").body
    assert slow.response.body == BIG
    assert_equal "quick", slow.get("/").body # it was kept
  end

  def test_a_refusal_comes_behind_what_waits_for_the_client
    serve { |_| text(BIG) }
    slow = slow_client
    slow.send("GET / HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n")
    sleep 0.2 # so that the response does not fit
    assert slow.response.body == BIG
    assert_equal 400, slow.response.status
  end

  def test_a_long_file_is_left_to_the_sidecar
    Dir.mktmpdir do |directory|
      File.binwrite("#{directory}/big", BIG)
      file = Struct.new(:to_path) { def each; raise "read here"; end }
      serve(threads: 1) { |env| env["PATH_INFO"] == "/big" ? [200, {}, file.new("#{directory}/big")] : text("quick") }
      slow = slow_client
      2.times do
        slow.request("GET", "/big")
        assert_equal "quick", client.get("/").body
        assert slow.response.body == BIG
      end
    end
  end

  def test_hijack
    serve do |env|
      socket = env["rack.hijack"].call
      socket.write("HTTP/1.1 101 Switching Protocols\r\n\r\n#{socket.readpartial(10)}")
      socket.close
    end
    caller = client
    caller.send("GET / HTTP/1.1\r\nHost: x\r\n\r\nbehind")
    assert_match(/101.*\r\n\r\nbehind\z/m, caller.rest)
  end

  def test_partial_hijack_and_a_streaming_body
    stream = lambda do |socket|
      socket.write("mine")
      socket.close
    end
    serve { |env| env["PATH_INFO"] == "/rack3" ? [200, {}, stream] : [200, { "rack.hijack" => stream }, []] }
    ["/rack3", "/"].each { |path| assert_match(/Connection: close\r\n\r\nmine\z/, client.tap { |caller| caller.request("GET", path) }.rest) }
  end

  def test_a_client_that_has_reset_its_connection_is_gone_and_no_failure
    Dir.mktmpdir do |directory|
      sidecar = FakeSidecar.new("#{directory}/handoff.sock")
      @server = Anteroom::Server.new(->(_) { flunk }, path: "#{directory}/handoff.sock", errors: @errors)
      @running = Thread.new { @server.run }
      peer = sidecar.welcome
      peer.lease(1, 1, reset_connection)
      answer = peer.expect(Anteroom::Type::CLOSE)
      assert_equal Anteroom::CloseReason::CLIENT, answer.a
      assert_match(/\A[^\n]*attached[^\n]*\n\z/, @errors.string)
    ensure
      [peer, sidecar].each(&:close)
    end
  end

  # What is lent of a client that has sent a request and then reset the connection.
  def reset_connection
    caller, lent = tcp_pair
    caller.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    caller.setsockopt(Socket::SOL_SOCKET, Socket::SO_LINGER, [1, 0].pack("ii"))
    caller.close
    eventually("the reset") { !lent.remote_address rescue true } # rubocop:disable Style/RescueModifier
    lent
  end

  def test_a_sidecar_that_is_restarted_is_found_again
    serve { |_| text("hello") }
    assert_equal "hello", client.get("/").body
    @sidecar.stop
    @sidecar.start
    assert_equal "hello", client.get("/").body
  end

  def test_leaving_finishes_what_is_under_way
    started = Queue.new
    serve do |_|
      started << true
      sleep 0.3
      text("slept")
    end
    caller = client
    caller.request("GET", "/")
    started.pop
    @server.drain
    assert_equal [200, "slept", nil], caller.response.then { |response| [response.status, response.body, response["connection"]] }
    assert @running.join(PATIENCE)
    refute caller.socket.wait_readable(0.05) # its connection stays, for the next host
  end
end
