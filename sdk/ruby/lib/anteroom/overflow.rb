# frozen_string_literal: true

require "tmpdir"

module Anteroom
  # What a client has not yet taken of a response: an anonymous file, for the sidecar to send on.
  #
  # It lies in memory (/dev/shm) where there is such a place; Ruby has no memfd_create(2). It never has a name, so nothing is left behind.
  class Overflow
    PLACES = ["/dev/shm", Dir.tmpdir].freeze
    MODE = File::RDWR | File::TMPFILE
    CHUNK = 65_536
    private_constant :PLACES, :MODE, :CHUNK

    attr_reader :file, :size

    # Raises SystemCallError if there is no room anywhere.
    def initialize
      @file = open_somewhere
      @size = 0
    end

    # Keeps the beginning of +data+ and returns how many bytes that is. Raises SystemCallError if there is no room.
    def write(data)
      written = @file.syswrite(data)
      @size += written
      written
    end

    # Yields all that was written, in parts.
    def each_part
      @file.rewind
      while (part = @file.read(CHUNK))
        yield part
      end
    end

    def close
      @file.close
    end

    private

    def open_somewhere
      PLACES.each_with_index do |place, index|
        return File.open(place, MODE, 0o600).tap(&:binmode)
      rescue SystemCallError
        raise if index == PLACES.size - 1
      end
    end
  end
end
