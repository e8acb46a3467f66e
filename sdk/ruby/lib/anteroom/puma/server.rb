# frozen_string_literal: true

require_relative "adapter"

module Anteroom
  module Puma
    # Prepended to Puma::Server. A server whose configuration does not name Anteroom, such as the control server, is left as it is.
    module Server
      def handle_servers
        return super unless @options[:anteroom]

        @anteroom = @reactor = Adapter.new(@thread_pool, @reactor, @binder.proto_env, @options, @log_writer.method(:log))
        @anteroom.start
        super
      ensure
        @anteroom&.close
        @anteroom = nil
      end

      # Puma is told to stop: leave the sidecar before the threads end.
      def handle_check
        stop = super
        @anteroom&.drain if stop && @status != :halt
        stop
      end

      def process_client(client, *rest)
        super
      ensure
        @anteroom&.go_on if lent?(client)
      end

      def handle_request(client, *rest)
        outcome = super
        client.detach if outcome == :async && lent?(client)
        outcome
      end

      # Puma drops requests of clients that have ended their side. Those may still wait for the response.
      def closed_socket?(socket)
        super && !(socket.is_a?(LentSocket) && socket.half_closed?)
      end

      def client_error(error, client, *rest)
        client.fail(error) if lent?(client)
        super
      end

      private

      # "Connection: close" from the app or the sidecar ends the connection, as it says. (Puma 5 would pass it on and read on.)
      def str_headers(env, status, headers, res_info, lines, requests, client)
        return super unless lent?(client)

        if client.last? || closing?(headers)
          env[::Puma::Const::HTTP_CONNECTION] = ::Puma::Const::CLOSE
          headers = headers.to_h.reject { |name, _| name.casecmp?("connection") }
        end
        super
        client.hand_over if res_info[:response_hijack] && !res_info[:no_body]
      end

      def closing?(headers)
        headers.any? { |name, value| name.casecmp?("connection") && value.to_s.casecmp?("close") }
      end

      def lent?(client)
        client.is_a?(Client)
      end
    end
  end
end
