# frozen_string_literal: true

require "stringio"
require "tempfile"
require_relative "request"

module Anteroom
  module HTTP
    # Reads the requests of one lease from its socket, bodies included.
    class Reader
      MAX_HEAD = 65_536
      MAX_BODY = 1 << 30
      MAX_CHUNK_LINE = 4096

      # Bytes of a body that are kept in memory; a longer one goes to a file.
      MAX_IN_MEMORY = 1 << 18

      # Seconds that a client may send nothing within a request.
      TIMEOUT = 10

      READ_SIZE = 65_536
      private_constant :READ_SIZE

      def initialize(socket)
        @socket = socket
        @buffer = String.new(encoding: Encoding::BINARY)
      end

      # The next request, with its body. Raises Refusal or ClientGone; SystemCallError if there is no room for the body.
      def read
        request = Request.new(head)
        raise Refusal.new(413, "the body is too long") if request.length.to_i > MAX_BODY

        go_on(request)
        request.body = body(request)
        request
      end

      # Whether something of a further request was read.
      def pending?
        @buffer.sub!(/\A[\r\n]+/n, "")
        !@buffer.empty?
      end

      # What was read behind the last request; the reader is not to be used any more.
      def rest
        @buffer
      end

      private

      def head
        from = 0
        until (line_end = @buffer.index("\r\n\r\n", from)) || @buffer.bytesize > MAX_HEAD
          from = [@buffer.bytesize - 3, 0].max
          fill
        end
        raise Refusal.new(431, "the head is too long") if line_end.nil? || line_end > MAX_HEAD

        take(line_end + 4).chomp!("\r\n\r\n")
      end

      def go_on(request)
        return unless request.expects_continue? && (request.chunked? || request.length > @buffer.bytesize)

        @socket << "HTTP/1.1 100 Continue\r\n\r\n"
      rescue SystemCallError, IOError => e
        raise ClientGone, e.message
      end

      def body(request)
        into = StringIO.new(String.new(encoding: Encoding::BINARY))
        into = request.chunked? ? copy_chunks(into) : copy(request.length, into)
        into.rewind
        into
      end

      def copy_chunks(into)
        loop do
          size = line[/\A(\h{1,8})[ \t]*(?:;.*)?\z/n, 1]&.hex or raise Refusal.new(400, "the size of a chunk is not hexadecimal")
          break if size.zero?
          raise Refusal.new(413, "the body is too long") if into.size + size > MAX_BODY

          into = copy(size, into)
          raise Refusal.new(400, "a chunk is longer than its size") unless line.empty?
        end
        skip_trailers
        into
      end

      def skip_trailers
        left = MAX_HEAD
        until (trailer = line).empty?
          raise Refusal.new(431, "the trailers are too long") if (left -= trailer.bytesize + 2).negative?
        end
      end

      def line
        fill until (line_end = @buffer.index("\n")) || @buffer.bytesize > MAX_CHUNK_LINE
        raise Refusal.new(400, "a line of a chunked body is too long") if line_end.nil? || line_end > MAX_CHUNK_LINE

        text = take(line_end + 1)
        raise Refusal.new(400, "a line of a chunked body does not end with CRLF") unless text.delete_suffix!("\r\n") && !text.include?("\r")

        text
      end

      def copy(length, into)
        into = to_file(into) if into.is_a?(StringIO) && into.size + length > MAX_IN_MEMORY
        while length.positive?
          fill if @buffer.empty?
          length -= into.write(take([length, @buffer.bytesize].min))
        end
        into
      end

      def to_file(into)
        file = Tempfile.create("anteroom", binmode: true)
        File.unlink(file.path)
        file.write(into.string)
        file
      end

      def take(length)
        return @buffer.tap { @buffer = String.new(encoding: Encoding::BINARY) } if length == @buffer.bytesize

        taken = @buffer.byteslice(0, length)
        @buffer = @buffer.byteslice(length..)
        taken
      end

      def fill
        data = @socket.read_nonblock(READ_SIZE, exception: false)
        case data
        when nil then raise ClientGone, "the client has ended the connection"
        when :wait_readable then @socket.wait_readable(TIMEOUT) or raise Refusal.new(408, "the client sends nothing")
        else @buffer << data
        end
      rescue SystemCallError, IOError => e
        raise ClientGone, e.message
      end
    end
  end
end
