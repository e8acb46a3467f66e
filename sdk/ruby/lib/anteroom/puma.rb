# frozen_string_literal: true

# Puma behind the sidecar. In config/puma.rb, with or without options:
#
#   plugin :anteroom
#
#   require "anteroom/puma"
#   anteroom pool: "web"
#
# Puma keeps its threads, its parser, its configuration, its workers and signals. The sidecar keeps the connections between requests.

require "puma"
require "puma/server"
require "puma/dsl"
require_relative "puma/server"

module Anteroom
  module Puma
    # What this is tested with.
    TESTED = "5.6"

    # What config/puma.rb can say.
    module DSL
      # Has Puma serve what the sidecar lends. +options+ are those of Anteroom::Host: path, pool, name, capacity (else ANTEROOM_CAPACITY, else
      # the number of threads) and cache.
      def anteroom(**options)
        @options[:anteroom] = options
        plugin(:anteroom)
      end
    end

    # Completes Puma's options. Without a bind in its configuration, Puma listens on no port. Raises for a Puma that is not
    # known, and for options that a host cannot have.
    def self.prepare(options)
      unless ::Puma::Const::PUMA_VERSION.start_with?("#{TESTED}.")
        raise ::Puma::UnknownPlugin, "Anteroom knows Puma #{TESTED}, this is #{::Puma::Const::PUMA_VERSION}: take that, or rackup -s anteroom."
      end

      options[:anteroom] ||= {}
      Host.new(**options[:anteroom]) # so that what is wrong with them is said here
      default = options.default_options[:binds]
      options[:binds] = [] if options[:binds] == default && !options.file_options.key?(:binds)
    end

    ::Puma::DSL.include(DSL)
    ::Puma::Server.prepend(Server)
  end
end
