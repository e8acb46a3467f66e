# frozen_string_literal: true

# Found by rackup of Rack 2.

require "rack/handler"
require "anteroom/rack_handler"

Rack::Handler.register("anteroom", "Anteroom::RackHandler")
