# frozen_string_literal: true

require_relative "backoff"
require_relative "errors"
require_relative "session"
require_relative "version"

module Anteroom
  # This process as a host: attaches to a sidecar, stays attached (a lost link is made again, with growing delays), and hands out leases.
  #
  #   host = Anteroom::Host.new(capacity: 4)
  #   host.start
  #   while (lease = host.next)
  #     # serve it, then answer it once: put, close, detach …
  #   end
  #
  # A thread of its own waits for the sidecar. All methods may be called from any thread, but not from a signal handler.
  class Host
    DEFAULT_PATH = "/run/anteroom/handoff.sock"
    NAME = /\A[A-Za-z0-9._:-]{1,64}\z/.freeze

    # Seconds within which the sidecar must answer HELLO.
    WELCOME_TIMEOUT = 5

    # Seconds that threads may go on with one request after the other before they let those run that wait for the interpreter.
    TURN = 0.002

    # Seconds a link must have lasted for the next attempt after its loss to come without much delay.
    STABLE = 5

    attr_reader :path, :name, :pool, :capacity

    # What is not given comes from ANTEROOM_HANDOFF, ANTEROOM_POOL (else "default"), ANTEROOM_NAME and ANTEROOM_CAPACITY (else 1).
    # +cache+ is how many descriptors of idle connections are kept. +log+ is called with a sentence when the link comes or goes.
    # With a block, each lease is given to it, in the thread that reads (its own or one in +poll+), instead of to +next+.
    # Raises ArgumentError for what the protocol does not allow.
    def initialize(path: nil, pool: nil, name: nil, capacity: nil, cache: 256, log: ->(line) { warn(line) }, agent: "anteroom-ruby/#{VERSION}", &on_lease)
      @path = socket_path(path || setting("ANTEROOM_HANDOFF") || DEFAULT_PATH)
      @pool = check_pool(pool || setting("ANTEROOM_POOL") || "default")
      @name = check_name(name || setting("ANTEROOM_NAME") || "ruby-#{Process.pid}", "name")
      @capacity = check_capacity(Integer(capacity || setting("ANTEROOM_CAPACITY") || 1), least: 1)
      @cache = check_cache(cache)
      @log = log
      @agent = agent
      @queue = Queue.new
      @on_lease = on_lease || method(:enqueue)
      @lock = Mutex.new
      @changed = ConditionVariable.new # attached, leaving, or the end of the session
      @backoff = Backoff.new
      @leaving = false
      @turned = now
    end

    # Attaches as soon as there is a sidecar, and stays attached. Returns at once.
    def start
      @thread ||= Thread.new { run }.tap { |thread| thread.name = "anteroom host" }
      self
    end

    # As +start+, and waits until it is attached. Raises what prevents it within +timeout+ seconds; the host has then left.
    def attach(timeout: WELCOME_TIMEOUT)
      start
      return self if wait(timeout) { attached? }

      why = @trouble || Unreachable.new("The sidecar at #{@path} did not answer within #{timeout} s.")
      close
      raise why
    end

    # Waits for a lease. Returns nil after +drain+ or +close+, once there are no more.
    def next
      loop do
        take_turns
        poll if @queue.empty?
        lease = @queue.pop
        return lease unless lease&.taken_back?
      end
    end

    # Takes what the sidecar has sent already, without waiting. For a thread that is free: it then need not be woken by the one that waits.
    def poll
      session = @session
      attend(session) { session.poll { |lease| give(lease) } } if session&.welcome
    end

    # Lets other threads run, if it is their turn. For a thread that goes on with the next request: where nothing makes it wait, it would else
    # keep the interpreter for 100 ms, and interrupt a request then.
    def take_turns
      return if now - @turned < TURN

      @turned = now
      Thread.pass
    end

    def attached?
      session = @session
      !session.nil? && !session.welcome.nil?
    end

    # Takes up to +capacity+ leases at once from now on; 0 pauses this host.
    def capacity=(capacity)
      @capacity = check_capacity(capacity, least: 0)
      @session&.capacity = capacity if attached?
    end

    # Leaves: no new lease comes, what is out is to be answered. Returns at once; +join+ waits for the end. Never raises.
    def drain
      leave
      @session&.drain
    end

    # After +drain+: waits, for +timeout+ seconds at most, until no lease will come any more. Returns whether that is so.
    def wait_drained(timeout)
      wait(timeout) { @session.nil? || @session.drained? }
    end

    # Waits, for +timeout+ seconds at most (nil: for ever), until no lease is out. Returns whether that is so.
    def wait_home(timeout)
      session = @session
      session.nil? || session.wait_home(timeout)
    end

    # Waits for the end of the link after +drain+, for +timeout+ seconds at most (nil: for ever). Returns whether it has ended.
    def join(timeout = nil)
      @thread.nil? || !@thread.join(timeout).nil?
    end

    # Hangs up at once. What is out can still be served, not put. Never raises.
    def close
      leave
      @session&.end
      @queue.close
    end

    private

    def setting(variable)
      value = ENV[variable]
      value unless value.nil? || value.empty?
    end

    # The path of a Unix socket's address such as unix:///run/anteroom/handoff.sock; anything else is a path already.
    def socket_path(address)
      address.sub(%r{\Aunix://(?=/)}, "")
    end

    def check_name(name, what)
      raise ArgumentError, "The #{what} #{name.inspect} must be 1 to 64 of A-Z a-z 0-9 . _ : -" unless NAME.match?(name)

      name
    end

    # Empty is a private pool, which ends with this host.
    def check_pool(pool)
      pool.empty? ? pool : check_name(pool, "pool")
    end

    def check_cache(cache)
      raise ArgumentError, "The cache #{cache.inspect} must be a whole number, 0 or more" unless cache.is_a?(Integer) && !cache.negative?

      cache
    end

    def check_capacity(capacity, least:)
      raise ArgumentError, "The capacity #{capacity} must be #{least} to #{MAX_CAPACITY}" unless capacity.between?(least, MAX_CAPACITY)

      capacity
    end

    def leave
      @lock.synchronize do
        @leaving = true
        @changed.broadcast
      end
    end

    def run
      until @leaving
        trouble = live
        break if @leaving

        complain(trouble)
        rest
      end
    ensure
      @queue.close
    end

    # One life of the link. Returns what ended it.
    def live
      began = now
      session = @session = Session.new(Link.open(@path), hello, keep: @cache, on_shortage: method(:complain_of_shortage))
      welcome(session)
      loop { read(session) }
    rescue Error => e
      @backoff.reset if session&.welcome && now - began > STABLE
      e
    ensure
      lose(session)
    end

    def hello
      features = ["address", "finish"]
      features << "cache" if @cache.positive?
      { name: @name, pool: @pool, capacity: [@capacity, 1].max, features: features, agent: @agent }
    end

    def welcome(session)
      session.drain if @leaving
      deadline = now + WELCOME_TIMEOUT
      read(session, [deadline - now, 0].max) until session.welcome || now >= deadline
      raise LinkLost, "The sidecar at #{@path} did not answer HELLO within #{WELCOME_TIMEOUT} s." unless session.welcome

      session.capacity = @capacity if @capacity.zero? # which a HELLO cannot say
      session.drain if @leaving
      @log.call("Anteroom: attached to the sidecar at #{@path}, pool #{session.welcome["pool"]}.")
      @complaint = nil
      signal
    end

    def read(session, timeout = nil)
      attend(session) { session.receive(timeout) { |lease| give(lease) } }
    end

    def attend(session)
      was = session.drained?
      yield
      return if session.drained? == was

      @queue.close if @leaving
      signal
    end

    def lose(session)
      session&.end
      @lock.synchronize do
        @session = nil
        @changed.broadcast
      end
    end

    # Once for each kind of trouble: a sidecar that is away is looked for often.
    def complain(trouble)
      @trouble = trouble
      return if @complaint == trouble.message

      @complaint = trouble.message
      @log.call("Anteroom: #{trouble.message} Trying again until it works.")
    end

    # Once: the next shortage has the same cause.
    def complain_of_shortage(dropped)
      return if @short_of_descriptors

      @short_of_descriptors = true
      @log.call("Anteroom: this process has no descriptor left for a connection (its limit is #{Process.getrlimit(:NOFILE).first}); " \
                "#{dropped} idle connections that it kept were let go of. Raise the limit (ulimit -n), or keep fewer (cache).")
    end

    def rest
      @lock.synchronize { @changed.wait(@lock, @backoff.delay) unless @leaving }
    end

    def wait(timeout)
      deadline = now + timeout
      @lock.synchronize do
        until yield
          left = deadline - now
          return false if left <= 0

          @changed.wait(@lock, left)
        end
      end
      true
    end

    def signal
      @lock.synchronize { @changed.broadcast }
    end

    # A block that fails must not end the thread that reads.
    def give(lease)
      @on_lease.call(lease)
    rescue StandardError => e
      @log.call("Anteroom: a lease was not taken: #{e.message} (#{e.class})")
      lease.nack
    end

    def enqueue(lease)
      @queue << lease
    rescue ClosedQueueError # closed meanwhile
      lease.nack
    end

    def now
      Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end
  end
end
