# frozen_string_literal: true

require "puma/client"

module Anteroom
  module Puma
    # Puma's view of a lent connection: as any other, but that its end is an answer to the sidecar.
    #
    # It lives as long as the host keeps the connection's descriptor, through many leases.
    class Client < ::Puma::Client
      # What Puma asks whether new clients are waiting: they wait in the sidecar.
      module Nobody
        def self.to_io
          self
        end

        def self.wait_readable(_timeout)
          nil
        end
      end

      # The seconds for which an idle connection is to be kept; 0: the pool's time.
      def initialize(socket, env, keep_alive:)
        super(socket, env)
        @keep_alive = keep_alive
        self.listener = Nobody
      end

      # Begins a lease.
      def lend(lease)
        @lease = lease
        @requests = 0
        @idle = false
        @ended_by = CloseReason::DONE
        lease.begin_request
        self
      end

      def last?
        @lease.last?
      end

      # Whether the client waits for nothing: its response is written, and nothing of a further request was read.
      def idle?
        @idle
      end

      # A lease comes with a request, so there is no need to ask whether anything can be read.
      def eagerly_finish
        @ready || try_to_finish
      end

      # Begins the next request of the lease, if a part of it was read with the one before. Unlike Puma's, it never waits for one: that is the
      # sidecar's business.
      def reset(_fast_check = true)
        @requests += 1
        @buffer, @surplus = @surplus, nil if @surplus
        @buffer = nil if @buffer&.match?(/\A[\r\n]*\z/n)
        @buffer&.sub!(/\A[\r\n]+/n, "")
        @idle = @buffer.nil?
        super(false)
      end

      # The connection goes back to the sidecar.
      def put
        @lease.put(keep_alive: @keep_alive, requests: @requests)
      end

      # Why the lease will end, if not by a response.
      def fail(error)
        gone = error.is_a?(::Puma::ConnectionError) || error.is_a?(EOFError) || error.is_a?(::Puma::HttpParserError)
        @ended_by = gone ? CloseReason::CLIENT : CloseReason::APP
      end

      # The app goes on with the connection by itself.
      def detach
        @lease.detach(@buffer || @surplus) unless @detached
        @detached = true
      end

      # The response's end is the app's business, which writes to the socket itself.
      def hand_over
        @io.stop_overflow
        detach
      end

      # Hijacked by the app.
      def call
        detach
        super
      end

      def close
        if @detached
          super
        elsif @idle
          put
        else
          @lease.close(@ended_by, requests: @requests + 1)
        end
      end

      private

      # Puma 5 takes all that was read together with a head for its body, also where a further request begins.
      def setup_body
        length = @env[::Puma::Const::CONTENT_LENGTH]
        body = @parser.body
        if length&.match?(/\A\d+\z/) && body.bytesize > length.to_i && !@env.key?(::Puma::Const::TRANSFER_ENCODING2)
          @surplus = body.slice!(length.to_i..)
        end
        super
      end
    end
  end
end
