# frozen_string_literal: true

module Anteroom
  # The base of all errors of this gem. Each message says what to do.
  class Error < StandardError; end

  # There is no way to the sidecar just now.
  class Unreachable < Error
    # What a failed connect(2) to the handoff socket means.
    def self.because(path, why)
      new case why
          when Errno::ENOENT
            "There is no handoff socket at #{path}. Start the sidecar (anteroom serve --handoff #{path}), or name the right path in ANTEROOM_HANDOFF."
          when Errno::EACCES
            "This process may not open the handoff socket #{path}. Name its user in the sidecar's option handoff-allow-uid, or its group in " \
            "handoff-allow-gid. If it is named there, the mode of the socket or of a folder above it is in the way."
          when Errno::ECONNREFUSED
            "Nobody answers at the handoff socket #{path}. Is the sidecar running?"
          else
            "Cannot connect to the handoff socket #{path}: #{why.message}"
          end
    end
  end

  # The link to the sidecar has ended. What was leased may be finished, but not put.
  class LinkLost < Error; end

  # The sidecar said something that the protocol does not allow.
  class ProtocolError < LinkLost; end

  # The sidecar ended the link and said why: +code+ is a number of the protocol's table.
  class Ended < LinkLost
    attr_reader :code

    def initialize(code, sentence)
      super("#{CODES[code] || "code #{code}"}: #{sentence.delete_suffix(".")}.")
      @code = code
    end
  end

  # The sidecar did not accept this host.
  class Refused < Ended; end
end
