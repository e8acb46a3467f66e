# frozen_string_literal: true

module Anteroom
  VERSION = "0.1.0"
end
