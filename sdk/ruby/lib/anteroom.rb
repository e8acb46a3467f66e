# frozen_string_literal: true

# Anteroom for Ruby: serve requests on connections that a sidecar keeps.
#
# "anteroom/puma" puts Puma behind the sidecar, Anteroom::Server is a small Rack server, Anteroom::Host is for writing one.
module Anteroom
end

require_relative "anteroom/version"
require_relative "anteroom/errors"
require_relative "anteroom/frame"
require_relative "anteroom/host"
