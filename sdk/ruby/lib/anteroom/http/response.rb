# frozen_string_literal: true

require "io/wait"
require_relative "request"

module Anteroom
  module HTTP
    # Writes one Rack response to the client of a lease.
    class Response
      PHRASES = {
        100 => "Continue", 101 => "Switching Protocols", 200 => "OK", 201 => "Created", 202 => "Accepted", 204 => "No Content",
        206 => "Partial Content", 301 => "Moved Permanently", 302 => "Found", 303 => "See Other", 304 => "Not Modified",
        307 => "Temporary Redirect", 308 => "Permanent Redirect", 400 => "Bad Request", 401 => "Unauthorized", 403 => "Forbidden",
        404 => "Not Found", 405 => "Method Not Allowed", 408 => "Request Timeout", 409 => "Conflict", 410 => "Gone",
        413 => "Content Too Large", 415 => "Unsupported Media Type", 422 => "Unprocessable Content", 429 => "Too Many Requests",
        431 => "Request Header Fields Too Large", 500 => "Internal Server Error", 501 => "Not Implemented", 502 => "Bad Gateway",
        503 => "Service Unavailable", 504 => "Gateway Timeout"
      }.freeze

      # Seconds that a client may take nothing.
      TIMEOUT = 10

      # Files up to this size are sent by the worker itself: that costs less than to pass a descriptor.
      SMALL_FILE = 65_536

      BATCH = 32_768
      NAME = /\A#{Request::TOKEN}\z/.freeze
      private_constant :BATCH, :NAME

      # +behind+ is what was read behind the request.
      def initialize(lease, request, behind:)
        @lease = lease
        @socket = lease.socket
        @request = request
        @keep = request.keep_alive? && !lease.last?
        @behind = behind
        @unsent = String.new(encoding: Encoding::BINARY)
      end

      # Writes all of it. Returns :keep or :close, what is to become of the connection, or :gone if it is no longer the server's.
      def write(status, headers, body)
        sort(headers)
        return tunnel(status, @hijack || body) if @hijack || streaming?(body)

        @status = status
        choose_framing(body)
        put_head
        return :gone if !bodiless? && write_body(body) == :gone

        flush
        @keep ? :keep : :close
      ensure
        body.close if body.respond_to?(:close)
      end

      # Whether a part of it may have reached the client.
      def begun?
        @begun == true
      end

      private

      def sort(headers)
        @lines = String.new(encoding: Encoding::BINARY)
        @length = @connection = @encoded = @hijack = nil
        headers.each do |name, value|
          name = name.to_s
          case name.downcase
          when "rack.hijack" then @hijack = value
          when "connection" then @connection = value.to_s
          when "content-length" then @length = Integer(value.to_s, 10)
          else add(name, value)
          end
          @encoded ||= name.casecmp?("transfer-encoding")
        end
        @keep = false if @connection&.match?(/\bclose\b/i)
      end

      # Rack 2 separates values by line ends, Rack 3 has lists. Nothing else may break a line.
      def add(name, value)
        return if name.start_with?("rack.") || !NAME.match?(name)

        values = value.is_a?(Array) ? value : value.to_s.split("\n")
        values.each { |each| @lines << name << ": " << each.to_s.b << "\r\n" unless each.to_s.match?(/[\r\n\0]/) }
      end

      def streaming?(body)
        !body.respond_to?(:each) && body.respond_to?(:call)
      end

      # The app goes on with the socket by itself.
      def tunnel(status, app)
        @socket.stop_overflow
        emit "#{@request.version} #{status} #{phrase(status)}\r\n#{@lines}Connection: #{@connection || "close"}\r\n\r\n"
        flush
        @lease.detach(@behind)
        app.call(@socket)
        :gone
      end

      def choose_framing(body)
        @chunked = false
        return if bodiless_status? || @encoded

        @length ||= length_of(body)
        @keep = false unless @length || @request.http11?
        @chunked = @length.nil? && @request.http11?
      end

      def length_of(body)
        return File.size(body.to_path) if body.respond_to?(:to_path)

        body.to_ary.sum(&:bytesize) if body.respond_to?(:to_ary)
      end

      def put_head
        emit "#{@request.version} #{@status} #{phrase(@status)}\r\n"
        emit @lines
        emit "Content-Length: #{@length}\r\n" if @length && !bodiless_status?
        emit "Transfer-Encoding: chunked\r\n" if @chunked
        emit "Connection: close\r\n" unless @keep
        emit "Connection: keep-alive\r\n" if @keep && !@request.http11?
        emit "\r\n"
      end

      def phrase(status)
        PHRASES.fetch(status, "Status")
      end

      def bodiless_status?
        @status < 200 || @status == 204 || @status == 304
      end

      def bodiless?
        @request.head? || bodiless_status?
      end

      def write_body(body)
        return write_file(body.to_path) if body.respond_to?(:to_path) && @length && !@encoded

        prompt = !body.respond_to?(:to_ary)
        sent = 0
        body.each do |part|
          sent += part.bytesize
          raise "the app's response is longer than its Content-Length" if @length && sent > @length

          put_part(part)
          flush if prompt || @unsent.bytesize > BATCH
        end
        raise "the app's response is shorter than its Content-Length" if @length && sent < @length

        emit "0\r\n\r\n" if @chunked
      end

      def put_part(part)
        return if part.empty?
        return emit(part) unless @chunked

        emit "#{part.bytesize.to_s(16)}\r\n"
        emit part
        emit "\r\n"
      end

      # Leaves a long file to the sidecar, after the head. Returns :gone if it has.
      def write_file(path)
        File.open(path, "rb") do |file|
          raise "#{path} is shorter than the response's Content-Length" if file.size < @length
          flush if @length > SMALL_FILE
          return copy_file(file) if @length <= SMALL_FILE || !may_finish?

          @lease.finish(file, length: @length, close: !@keep)
          :gone
        end
      end

      # Whether all that the client gets on this connection, as far as we know, is in the socket and in the file.
      def may_finish?
        @lease.may_finish? && @behind.empty? && !@socket.overflowing?
      end

      def copy_file(file)
        left = @length
        while left.positive?
          emit file.read([left, BATCH].min)
          left -= BATCH
          flush
        end
      end

      def emit(data)
        @unsent << data.b
      end

      def flush
        @unsent = send_some(@unsent) until @unsent.empty?
      rescue SystemCallError, IOError => e
        raise ClientGone, e.message
      end

      # Returns what is left.
      def send_some(data)
        @begun = true
        data.byteslice(@socket.syswrite(data)..)
      rescue IO::WaitWritable
        @socket.wait_writable(TIMEOUT) or raise ClientGone, "the client takes nothing"
        data
      end
    end
  end
end
