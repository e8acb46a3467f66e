# frozen_string_literal: true

require "support/helper"
require "support/client"
require "support/puma"
require "support/real_sidecar"

# Puma behind a real sidecar.
class TestPuma < Minitest::Test
  include Helper

  ONE = "plugin :anteroom\nthreads 2, 2\n"
  CLUSTER = "plugin :anteroom\nthreads 2, 2\nworkers 2\n"

  def setup
    @clients = []
  end

  def teardown
    @clients.each(&:close)
    @puma&.remove
    @sidecar&.stop
    @sidecar&.remove
  end

  def serve(config, workers: 1, **options)
    @sidecar = RealSidecar.new(**options)
    @puma = PumaProcess.new(@sidecar, config, workers: workers)
  end

  def client
    Client.new(@sidecar.port).tap { |client| @clients << client }
  end

  def test_idle_connections_cost_no_thread_and_stay
    serve(ONE)
    clients = Array.new(10) { client }
    2.times { assert_equal(["hello"] * 10, clients.map { |each| each.get("/").body }) }
    refute_match(/Listening/, @puma.log)
    assert_match(/\Apuma-\d+\z/, @sidecar.hosts[0]["name"])
    assert_equal 2, @sidecar.hosts[0]["capacity"]
  end

  def test_one_line_is_enough_and_other_options_hold
    serve("plugin :anteroom")
    assert_equal "hello", client.get("/").body
    @puma.remove
    @puma = PumaProcess.new(@sidecar, "tag 'kept'\nplugin :anteroom\n")
    assert_match(/\[kept\]/, File.read("/proc/#{client.get("/pid").body}/cmdline"))
  end

  def test_options_that_cannot_be
    @sidecar = RealSidecar.new
    {
      "anteroom pool: 'a b'" => /pool "a b" must be/,
      "anteroom pol: 'web'" => /unknown keyword: :pol/,
      "anteroom cache: '5'" => /cache "5" must be/,
      "set_remote_address proxy_protocol: :v1\nplugin :anteroom" => /set_remote_address\(proxy_protocol: .*\?proxy=NETWORK/
    }.each do |options, complaint|
      puma = PumaProcess.new(@sidecar, "require 'anteroom/puma'\n#{options}\n", attached: false)
      refute_predicate puma.end_status, :success?
      assert_match complaint, puma.log
      puma.remove
    end
  end

  def test_options_and_a_bind_of_its_own
    @sidecar = RealSidecar.new
    path = "#{Dir.mktmpdir}/own.sock"
    @puma = PumaProcess.new(@sidecar, "require 'anteroom/puma'\nanteroom name: 'special', capacity: 7\nbind 'unix://#{path}'\n")
    assert_equal ["special", 7], @sidecar.hosts[0].values_at("name", "capacity")
    assert_equal "hello", client.get("/").body
    own = UNIXSocket.new(path)
    own.write("GET / HTTP/1.0\r\n\r\n")
    assert_match(/hello\z/, own.read)
  ensure
    own&.close
    FileUtils.rm_rf(File.dirname(path))
  end

  def test_requests_that_puma_alone_would_lose
    serve(ONE, ready: "bytes")
    caller = client
    caller.request("POST", "/echo", body: "one")
    caller.request("POST", "/echo", body: "two")
    caller.send("\r\n") # an empty line between requests
    caller.request("GET", "/")
    assert_equal(["one", "two", "hello"], Array.new(3) { caller.response.body })
  end

  def test_slow_senders_wait_in_the_reactor
    serve(ONE, ready: "bytes")
    slow = Array.new(5) { client.tap { |each| each.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n1") } }
    slow.each { |each| each.send("23") }
    assert_equal(["123"] * 5, slow.map { |each| each.response.body })
  end

  def test_a_slow_reader_costs_no_thread
    serve("plugin :anteroom\nthreads 1, 1\n")
    slow = client
    slow.socket.setsockopt(Socket::SOL_SOCKET, Socket::SO_RCVBUF, 1 << 16)
    slow.request("GET", "/big")
    assert_equal "hello", client.get("/").body
    assert_equal 12 << 20, slow.response.body.bytesize
    assert_equal "hello", slow.get("/").body
  end

  def test_a_refusal_comes_behind_what_waits_for_the_client
    serve(ONE, ready: "bytes")
    slow = client
    slow.socket.setsockopt(Socket::SOL_SOCKET, Socket::SO_RCVBUF, 1 << 16)
    slow.send("GET /big HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n")
    sleep 0.2 # so that the response does not fit
    assert_equal 12 << 20, slow.response.body.bytesize
    assert_match(%r{\AHTTP/1.1 400}, slow.rest)
  end

  def test_connection_close_is_meant
    serve(ONE)
    caller = client
    caller.request("GET", "/close")
    assert_equal 1, caller.rest.scan(/Connection: close/i).size
    asked = client
    asked.request("GET", "/", "Connection" => "close")
    assert_match(/hello\z/, asked.rest)
  end

  def test_persistent_timeout_holds
    serve("#{ONE}persistent_timeout 1\n")
    caller = client
    began = now
    caller.get("/")
    assert_equal "", caller.rest
    assert_in_delta 1, now - began, 0.9
  end

  def test_partial_hijack
    serve(ONE)
    caller = client
    caller.request("GET", "/partial")
    assert_match(/\r\n\r\nmine\z/, caller.rest)
  end

  def test_an_app_that_fails_and_a_client_that_sends_nonsense
    serve(ONE, ready: "bytes")
    caller = client
    assert_equal 500, caller.get("/fail").status
    assert_equal "hello", caller.get("/").body
    caller.send("nonsense\r\n\r\n")
    assert_match(%r{\AHTTP/1.1 400}, caller.rest)
  end

  def test_the_address_that_a_load_balancer_tells
    serve(ONE, proxy: "127.0.0.1")
    caller = client
    caller.send("PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n")
    2.times { assert_equal "192.0.2.7", caller.get("/address").body }
  end

  def test_sigterm_finishes_what_is_under_way
    serve(ONE)
    idle, busy = client, client
    idle.get("/")
    busy.request("GET", "/sleep?0.5")
    eventually("the lease") { @sidecar.hosts[0]["leased"] == 1 }
    @puma.kill("TERM")
    answer = busy.response
    assert_equal ["slept", nil], [answer.body, answer["connection"]]
    @puma.end_status
    refute idle.socket.wait_readable(0.05)
    @puma = PumaProcess.new(@sidecar, ONE)
    assert_equal ["hello", "hello"], [idle.get("/").body, busy.get("/").body]
  end

  def test_a_sidecar_that_is_restarted_is_found_again
    serve(ONE)
    assert_equal "hello", client.get("/").body
    @sidecar.stop
    @sidecar.start
    assert_equal "hello", client.get("/").body
  end

  # At least 1,000 requests of 20 clients that keep their connections, until the block ends. Returns what went wrong: the status of an answer
  # other than 200, or :lost for a connection that ended.
  def failures_while
    failures = Queue.new
    done = false
    callers = Array.new(20) do
      Thread.new do
        caller = client
        (1..).each do |number|
          break if done && number > 50

          outcome = outcome_of { caller.get("/pid") }
          unless outcome == 200
            failures << outcome
            caller = client # a 502 ends its connection
          end
          sleep 0.02
        end
      end
    end
    yield
    done = true
    callers.each(&:join)
    Array.new(failures.size) { failures.pop }
  end

  def outcome_of
    yield.status
  rescue EOFError, SystemCallError
    :lost
  end

  def test_a_killed_worker_loses_only_what_it_had_read
    serve(CLUSTER, workers: 2)
    killed = nil
    failures = failures_while do
      sleep 0.3
      killed = client.get("/pid").body.to_i
      Process.kill("KILL", killed)
      @puma.wait("attached to the sidecar", 3)
    end
    assert_operator failures.size, :<=, 2, failures # it has two threads
    refute_equal killed, client.get("/pid").body.to_i
  end

  def test_a_phased_restart_loses_nothing
    serve(CLUSTER, workers: 2)
    before = @sidecar.hosts.map { |host| host["name"] }
    failures = failures_while do
      sleep 0.2
      @puma.kill("USR1")
      @puma.wait("attached to the sidecar", 4)
    end
    assert_empty failures
    eventually("the old workers' end") { @sidecar.hosts.size == 2 && (@sidecar.hosts.map { |host| host["name"] } & before).empty? }
  end

  def test_a_restart_of_a_single_process_loses_nothing
    serve(ONE)
    failures = failures_while do
      sleep 0.2
      @puma.kill("USR2")
      @puma.wait("attached to the sidecar", 2)
    end
    assert_empty failures
  end
end
