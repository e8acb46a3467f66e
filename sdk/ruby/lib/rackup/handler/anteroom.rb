# frozen_string_literal: true

# Found by rackup of Rack 3.

require "rackup/handler"
require "anteroom/rack_handler"

Rackup::Handler.register(:anteroom, Anteroom::RackHandler)
