# frozen_string_literal: true

require "timeout"
require "support/helper"
require "support/fake_sidecar"

# A host against a sidecar that is played by hand.
class TestHost < Minitest::Test
  include Helper
  Type = Anteroom::Type

  def setup
    @directory = Dir.mktmpdir
    @path = "#{@directory}/handoff.sock"
    @sidecar = FakeSidecar.new(@path)
    @lines = []
    @client, @server = tcp_pair
  end

  def teardown
    @host&.close
    assert @host.join(PATIENCE) if @host
    [@sidecar, @client, @server].each(&:close)
    FileUtils.rm_rf(@directory)
  end

  def start(**options)
    @host = Anteroom::Host.new(path: @path, name: "test", log: ->(line) { @lines << line }, **options).start
    @peer = @sidecar.welcome
    eventually("attaching") { @host.attached? }
  end

  def lend(conn: 1, seq: 1, io: @server, **fields)
    @peer.lease(conn, seq, io, **fields)
    @host.next
  end

  def test_hello
    start(pool: "web", capacity: 3)
    assert_equal({ "name" => "test", "pool" => "web", "capacity" => 3 }, @peer.hello.slice("name", "pool", "capacity"))
    assert_equal ["address", "cache", "finish"], @peer.hello["features"].sort
    assert_equal ["Anteroom: attached to the sidecar at #{@path}, pool web."], @lines
  end

  def test_the_environment_fills_in
    ENV["ANTEROOM_HANDOFF"], ENV["ANTEROOM_POOL"], ENV["ANTEROOM_NAME"], ENV["ANTEROOM_CAPACITY"] = "unix:///h", "p", "n", "7"
    host = Anteroom::Host.new
    assert_equal ["/h", "p", "n", 7], [host.path, host.pool, host.name, host.capacity]
    assert_equal ["x", "y"], Anteroom::Host.new(path: "x", pool: "y").then { |other| [other.path, other.pool] }
  ensure
    ["HANDOFF", "POOL", "NAME", "CAPACITY"].each { |name| ENV.delete("ANTEROOM_#{name}") }
  end

  def test_an_address_as_the_sidecar_writes_it
    @host = Anteroom::Host.new(path: "unix://#{@path}", log: ->(_) {}).start
    assert_equal @path, @host.path
    assert @sidecar.welcome
    ["relative.sock", "unix://relative.sock", "/unix:///a.sock"].each { |path| assert_equal path, Anteroom::Host.new(path: path).path }
  end

  def test_no_permission
    message = Anteroom::Unreachable.because("/h", Errno::EACCES.new).message
    assert_match(/may not open the handoff socket \/h\. .*handoff-allow-uid.*handoff-allow-gid/, message)
  end

  def test_what_the_protocol_does_not_allow
    assert_match(/pool "a b" must be/, assert_raises(ArgumentError) { Anteroom::Host.new(pool: "a b") }.message)
    assert_match(/capacity 4097 must be 1 to 4096/, assert_raises(ArgumentError) { Anteroom::Host.new(capacity: 4097) }.message)
    ["256", -1, 1.5].each { |cache| assert_match(/cache .* must be a whole/, assert_raises(ArgumentError) { Anteroom::Host.new(cache: cache) }.message) }
  end

  def test_a_lease_and_its_facts
    start
    lease = lend(flags: Anteroom::Flag::FRESH | Anteroom::Flag::LAST, a: 30 << 32 | 20, payload: '{"peer":"[2001:db8::1]:80"}')
    assert_equal [true, true, 20, 30], [lease.fresh?, lease.last?, lease.head_length, lease.request_length]
    assert_equal ["2001:db8::1", "127.0.0.1"], [lease.connection.peer, lease.connection.address]
    assert_instance_of Anteroom::TCPClient, lease.socket
    assert lease.socket.close_on_exec?
  end

  # Plays the host's thread and one that polls, one after the other.
  def session
    ours, theirs = UNIXSocket.pair
    session = Anteroom::Session.new(Anteroom::Link.new(ours), { features: ["cache"] }, keep: 1)
    peer = FakeSidecar::Peer.new(theirs)
    peer.welcome(["cache"])
    session.receive
    yield session, peer
  ensure
    session&.end
    peer&.close
  end

  def test_a_thread_that_polls_gets_what_has_come_and_waits_for_nothing
    session do |session, peer|
      session.poll { flunk }
      peer.lease(1, 1, @server)
      peer.lease(2, 1) # unknown
      leases = []
      2.times { session.poll { |lease| leases << lease } }
      assert_equal [1], (leases.map { |lease| lease.connection.id })
      assert_equal 2, peer.expect(Type::NACK).conn
    end
  end

  def test_what_a_thread_that_polls_finds_wrong_is_told_to_the_one_that_waits
    session do |session, peer|
      peer.send_frame(Type::ERROR, a: 13, payload: "too slow.")
      session.poll { flunk }
      session.poll { flunk }
      assert_match(/TOO_SLOW: too slow/, assert_raises(Anteroom::Ended) { session.receive }.message)
    end
  end

  def test_waiting_may_be_given_up
    start
    assert_raises(Timeout::Error) { Timeout.timeout(0.05) { @host.next } }
    assert_equal 3, lend(seq: 3).seq
  end

  def test_put_and_the_next_lease_without_a_descriptor
    start
    first = lend(seq: 4)
    assert first.put(keep_alive: 1.5, requests: 2)
    put = @peer.expect(Type::PUT)
    assert_equal [1, 4, 1500, 2], [put.conn, put.seq, put.a, put.b]
    assert first.over?
    refute first.put

    second = lend(seq: 5, io: nil)
    assert_same first.connection, second.connection
    second.socket.write("hello")
    assert_equal "hello", @client.readpartial(10)
  end

  def test_without_a_cache_the_descriptor_is_closed
    start(cache: 0)
    refute_includes @peer.hello["features"], "cache"
    lease = lend
    lease.put
    assert lease.socket.closed?
  end

  def test_a_full_cache_drops_the_oldest
    start(cache: 1)
    first = lend(conn: 1)
    first.put
    lend(conn: 2).put
    assert_equal [Type::PUT, Type::PUT], [@peer.read.type, @peer.read.type]
    assert_equal 1, @peer.expect(Type::DROPPED).conn
    assert first.socket.closed?
    @peer.lease(1, 2, nil) # it crossed with our DROPPED
    assert_equal Anteroom::NackReason::UNKNOWN, @peer.expect(Type::NACK).a
  end

  def test_closing_our_descriptor_ends_nothing
    start
    lend.close(Anteroom::CloseReason::APP)
    assert_equal Anteroom::CloseReason::APP, @peer.expect(Type::CLOSE).a
    refute @client.wait_readable(0.05)
  end

  def test_detach
    start
    lease = lend
    socket = lease.socket
    assert lease.detach
    @peer.expect(Type::DETACH)
    @server.close
    socket.write("mine")
    assert_equal "mine", @client.readpartial(10)
    socket.close
    assert_nil @client.read(1)
  end

  def test_nack
    start
    lend.nack
    assert_equal Anteroom::NackReason::OVERLOAD, @peer.expect(Type::NACK).a
  end

  def test_finish
    start
    File.open(__FILE__) { |file| assert lend.finish(file, offset: 3, length: 5, close: true) }
    finish = @peer.expect(Type::FINISH)
    assert_equal [3, 5, Anteroom::Flag::CLOSE | Anteroom::Flag::FD, ""], [finish.a, finish.b, finish.flags, finish.payload]
    assert_equal File.stat(__FILE__).ino, @peer.descriptor.stat.ino
  end

  def test_what_the_socket_has_kept_is_finished_for_the_same_time
    start
    lease = lend
    lease.begin_request
    big = "x" * (12 << 20)
    big = big.byteslice(lease.socket.syswrite(big)..) until big.empty?
    assert lease.put(keep_alive: 2)
    finish = @peer.expect(Type::FINISH)
    assert_equal [0, Anteroom::Flag::FD, '{"keep_alive_timeout_ms":2000}'], [finish.a, finish.flags, finish.payload]
    assert_equal finish.b, @peer.descriptor.stat.size
    refute lease.socket.closed? # as after a put
  end

  def test_forget_of_an_idle_connection_closes_it_without_shutdown
    start
    lease = lend
    lease.put
    @peer.expect(Type::PUT)
    @peer.send_frame(Type::FORGET, conn: 1, a: 1)
    eventually("closing") { lease.socket.closed? }
    refute @client.wait_readable(0.05)
  end

  def test_forget_of_a_leased_connection_takes_it_back
    start
    lease = lend
    @peer.send_frame(Type::FORGET, conn: 1, a: 5)
    eventually("taking it back") { lease.over? }
    assert_match(/taken this connection back/, assert_raises(IOError) { lease.socket.syswrite("x") }.message)
    refute lease.put
    assert lease.socket.closed?
    assert @peer.quiet?
  end

  def test_a_lease_that_was_taken_back_is_not_handed_out
    start
    @peer.lease(1, 1, @server)
    @peer.send_frame(Type::FORGET, conn: 1, a: 5)
    @peer.lease(2, 1, @server)
    @peer.send_frame(Type::PING)
    @peer.expect(Type::PONG) # all of that is read
    assert_equal 2, @host.next.connection.id
  end

  def test_capacity
    start
    @host.capacity = 9
    assert_equal 9, @peer.expect(Type::CAPACITY).a
    @host.capacity = 0
    assert_equal 0, @peer.expect(Type::CAPACITY).a
    @peer.close
    again = @sidecar.welcome
    assert_equal 0, again.expect(Type::CAPACITY).a # a HELLO cannot say so
  end

  def test_drain
    start
    lease = lend
    @host.drain
    @peer.expect(Type::DRAIN)
    refute @host.wait_drained(0.05)
    @peer.lease(2, 1, @server) # it crossed with our DRAINING
    assert_equal 2, @host.next.connection.id.tap { lease.put }
    @peer.send_frame(Type::DRAINING, a: 1)
    assert @host.wait_drained(PATIENCE)
    refute @host.wait_home(0.05)
    assert_nil @host.next
    @peer.close
    assert @host.join(PATIENCE)
    assert @host.wait_home(0)
  end

  def test_drain_before_there_is_a_sidecar
    @host = Anteroom::Host.new(path: "#{@directory}/nowhere", log: ->(line) { @lines << line }).start
    eventually("complaining") { @lines.any? }
    assert_match(/There is no handoff socket at .*nowhere\. Start the sidecar/, @lines.first)
    @host.drain
    assert_nil @host.next
  end

  def test_a_sidecar_that_ends_is_agreed_with_and_its_successor_found
    start
    @peer.send_frame(Type::DRAINING)
    @peer.expect(Type::DRAIN)
    @peer.send_frame(Type::DRAINING)
    @peer.close
    @sidecar.welcome
    eventually("attaching again") { @lines.grep(/attached/).size == 2 }
  end

  def test_after_a_lost_link_leases_can_be_served_and_not_put
    start
    held = lend(conn: 1)
    held.put
    lease = lend(conn: 2)
    @peer.lease(3, 1, @server)
    @peer.send_frame(Type::PING)
    [Type::PUT, Type::PONG].each { |type| @peer.expect(type) }
    @peer.close
    @peer = @sidecar.welcome
    eventually("letting go of idle connections") { held.socket.closed? }
    lease.socket.write("late")
    assert_equal "late", @client.readpartial(4)
    refute lease.put
    assert_equal 3, @host.next.connection.id # it had arrived, and its client waits
    assert @peer.quiet?
  end

  def test_refused
    @host = Anteroom::Host.new(path: @path, log: ->(line) { @lines << line }).start
    peer = @sidecar.accept
    peer.send_frame(Type::REFUSE, a: 12, payload: "64 hosts are attached")
    peer.close
    eventually("complaining") { @lines.any? }
    assert_equal "Anteroom: AT_LIMIT: 64 hosts are attached. Trying again until it works.", @lines.first
  end

  def test_refused_before_hello_is_read
    @sidecar.close
    server = UNIXServer.new("#{@directory}/early.sock")
    refuser = Thread.new do
      socket = server.accept
      socket.write(Anteroom::Frame.encode(Type::REFUSE, a: 14, payload: "not you"))
      socket.close
    end
    host = Anteroom::Host.new(path: "#{@directory}/early.sock", log: ->(line) { @lines << line })
    error = assert_raises(Anteroom::Refused) { host.attach(timeout: 0.5) }
    assert_equal 14, error.code
    assert refuser.join(PATIENCE)
  ensure
    server&.close
  end

  def test_attach_says_what_prevents_it
    host = Anteroom::Host.new(path: "#{@directory}/nowhere", log: ->(_) {})
    assert_match(/no handoff socket/, assert_raises(Anteroom::Unreachable) { host.attach(timeout: 0.1) }.message)
    assert host.join(PATIENCE)
  end

  def test_a_block_gets_the_leases
    leases = Queue.new
    @host = Anteroom::Host.new(path: @path, log: ->(_) {}) { |lease| leases << lease }.start
    @sidecar.welcome.lease(8, 1, @server)
    assert_equal 8, leases.pop.connection.id
  end

  def test_a_block_that_fails_gives_its_lease_back
    @host = Anteroom::Host.new(path: @path, log: ->(line) { @lines << line }) { |_| raise "no" }.start
    peer = @sidecar.welcome
    2.times do |number|
      peer.lease(number, 1, @server)
      assert_equal number, peer.expect(Type::NACK).conn
    end
    assert_includes @lines, "Anteroom: a lease was not taken: no (RuntimeError)"
  end

  def test_a_forked_child_does_not_hold_the_link
    start
    child = fork { sleep }
    @host.close
    assert @peer.hung_up?
  ensure
    Process.kill("KILL", child)
    Process.wait(child)
  end

  def test_out_of_descriptors_it_lets_go_of_connections_that_it_keeps_and_says_so_once
    start(capacity: 20)
    held = (1..80).map { |conn| lend(conn: conn).tap(&:put) }
    80.times { @peer.expect(Type::PUT) }
    without_descriptors do
      @peer.lease(81, 1, @server)
      assert_equal (1..20).to_a, (Array.new(20) { @peer.expect(Type::DROPPED).conn }) # a quarter, the least recently used
      nack = @peer.expect(Type::NACK)
      assert_equal [81, 1, Anteroom::NackReason::NO_DESCRIPTOR], [nack.conn, nack.seq, nack.a]
      (2..5).each do |seq| # at least 16 of the 60, or all that there are
        @peer.lease(81, seq, @server)
        (seq < 5 ? 16 : 12).times { @peer.expect(Type::DROPPED) }
        @peer.expect(Type::NACK)
      end
    end
    assert(held.all? { |lease| lease.socket.closed? })
    assert_equal 81, lend(conn: 81, seq: 6).connection.id
    assert_equal 1, @lines.grep(/no descriptor left.*; 20 idle connections that it kept were let go of\. Raise the limit/).size
    assert_equal 2, @lines.size
  end

  def test_out_of_descriptors_with_nothing_to_let_go_of
    start(cache: 0)
    without_descriptors do
      @peer.lease(1, 1, @server)
      assert_equal Anteroom::NackReason::NO_DESCRIPTOR, @peer.expect(Type::NACK).a
    end
    assert_equal 1, lend(seq: 2).connection.id
    assert_equal 1, @lines.grep(/; 0 idle connections/).size
  end

  def test_nothing_leaks
    assert_no_descriptor_leaks do
      start
      lend(conn: 1).put
      lend(conn: 2).close
      lend(conn: 3).detach
      lend(conn: 4).nack
      @peer.lease(1, 2, @server) # though we hold one
      @host.next.put
      @host.close
      @host.join(PATIENCE)
      @peer.close
      @host = nil
    end
  end
end
