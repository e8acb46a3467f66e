# frozen_string_literal: true

require_relative "../host"
require_relative "client"

module Anteroom
  module Puma
    # What a Puma::Server has of a host: gives leases to its threads, and takes the connections back where Puma would keep them.
    class Adapter
      # Seconds that the sidecar may take to confirm that this host leaves.
      DRAIN_TIMEOUT = 5

      # Seconds that requests under way have to end as ever when Puma stops. Those that end later are answered with "Connection: close".
      SETTLE_TIMEOUT = 1

      # +threads+ are Puma's thread pool, +reactor+ its reactor, +options+ those of config/puma.rb.
      def initialize(threads, reactor, env, options, log)
        @threads = threads
        @reactor = reactor
        @env = env
        @options = options
        chosen = { capacity: setting("ANTEROOM_CAPACITY") || options[:max_threads], name: setting("ANTEROOM_NAME") || "puma-#{Process.pid}" }
        @host = Host.new(**chosen, **options[:anteroom], log: log) { |lease| take(lease) }
      end

      def start
        @host.start
      end

      # In place of the reactor: an idle connection goes back to the sidecar; what waits for the rest of a request stays Puma's.
      def add(client)
        return @reactor.add(client) unless client.is_a?(Client) && client.idle?

        client.put
        true
      end

      # A thread is free: it takes the next leases itself, if they are there.
      def go_on
        @host.take_turns
        @host.poll if @threads.backlog.zero?
      end

      def shutdown
        @reactor.shutdown
      end

      # Leaves: when it returns, no lease comes any more, and most of those that are out are answered.
      def drain
        @host.drain
        @host.wait_drained(DRAIN_TIMEOUT)
        @host.wait_home(SETTLE_TIMEOUT)
      end

      def close
        @host.close
      end

      private

      def setting(variable)
        value = ENV[variable]
        value unless value.nil? || value.empty?
      end

      def take(lease)
        client = lease.connection.tag ||= make(lease)
        @threads << client.lend(lease)
      rescue RuntimeError # Puma's threads are shutting down
        lease.nack
      end

      def make(lease)
        client = Client.new(lease.socket, @env, keep_alive: @options.file_options[:persistent_timeout] || 0)
        client.remote_addr_header = @options[:remote_address_header] if @options[:remote_address] == :header
        client.peerip = peer(lease)
        client
      end

      # nil: the socket's.
      def peer(lease)
        @options[:remote_address] == :value ? @options[:remote_address_value] : lease.connection.peer
      end
    end
  end
end
