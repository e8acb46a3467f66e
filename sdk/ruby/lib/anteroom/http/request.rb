# frozen_string_literal: true

module Anteroom
  module HTTP
    # A request that is answered with an error by the server itself, which then closes the connection.
    class Refusal < StandardError
      attr_reader :status

      def initialize(status, message)
        super(message)
        @status = status
      end
    end

    # The client has gone, or what it sends has ended within a request.
    class ClientGone < StandardError; end

    # The head of one request, checked. Field names are in lower case; +fields+ has a list of values for each.
    class Request
      TOKEN = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]+"
      LINE = %r{\A(#{TOKEN}) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])\z}n.freeze
      FIELD = /\A(#{TOKEN}):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*\z/n.freeze
      private_constant :LINE, :FIELD

      attr_reader :verb, :target, :fields, :length
      attr_accessor :body

      # Reads the head, with its line ends and without its empty line. Raises Refusal.
      def initialize(head)
        first, *lines = head.split("\r\n", -1)
        match = LINE.match(first) or raise Refusal.new(400, "the request line is not that of HTTP/1")
        @verb, @target, @minor = match[1], match[2], match[3].to_i
        @fields = Hash.new { |fields, name| fields[name] = [] }
        lines.each { |line| add(line) }
        @fields.default = [].freeze
        @length = frame
        check_host
      end

      def [](name)
        @fields[name].join(", ") if @fields.key?(name)
      end

      def version
        "HTTP/1.#{@minor}"
      end

      def http11?
        @minor == 1
      end

      def chunked?
        @length.nil?
      end

      def head?
        @verb == "HEAD"
      end

      def expects_continue?
        http11? && self["expect"]&.casecmp?("100-continue")
      end

      # Whether the client wants to keep the connection.
      def keep_alive?
        options = self["connection"].to_s.downcase.split(/[ \t]*,[ \t]*/)
        http11? ? !options.include?("close") : options.include?("keep-alive") && !options.include?("close")
      end

      private

      def add(line)
        match = FIELD.match(line) or raise Refusal.new(400, "a line of the head is not a field")
        @fields[match[1].downcase] << match[2]
      end

      # The body's length, nil if it is chunked. What could be read in two ways is refused.
      def frame
        lengths = @fields["content-length"]
        if @fields.key?("transfer-encoding")
          raise Refusal.new(400, "Transfer-Encoding together with Content-Length, or in HTTP/1.0") if !lengths.empty? || !http11?
          raise Refusal.new(501, "a Transfer-Encoding other than chunked") unless self["transfer-encoding"].casecmp?("chunked")

          return nil
        end
        return 0 if lengths.empty?
        raise Refusal.new(400, "Content-Length is not one number") unless lengths.size == 1 && lengths[0].match?(/\A\d{1,18}\z/)

        lengths[0].to_i
      end

      def check_host
        hosts = @fields["host"].size
        raise Refusal.new(400, "HTTP/1.1 wants one Host") if hosts > 1 || (http11? && hosts.zero?)
      end
    end
  end
end
