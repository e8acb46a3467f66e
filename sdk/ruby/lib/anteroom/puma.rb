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
    # known, for options that a host cannot have, and for those of Puma's that do not work behind a sidecar.
    def self.prepare(options)
      unless ::Puma::Const::PUMA_VERSION.start_with?("#{TESTED}.")
        raise ::Puma::UnknownPlugin, "Anteroom knows Puma #{TESTED}, this is #{::Puma::Const::PUMA_VERSION}: take that, or rackup -s anteroom."
      end

      refuse_proxy_protocol(options)
      options[:anteroom] ||= {}
      Host.new(**options[:anteroom]) # so that what is wrong with them is said here
      default = options.default_options[:binds]
      options[:binds] = [] if options[:binds] == default && !options.file_options.key?(:binds)
    end

    # The header comes once for each connection, and Puma's parser is new for each lease: only the sidecar can read it.
    def self.refuse_proxy_protocol(options)
      return unless options[:remote_address] == :proxy_protocol

      raise ArgumentError, "set_remote_address(proxy_protocol: ...) has no place behind Anteroom, which reads the PROXY header itself: " \
                           "take it out of Puma's configuration, and add ?proxy=NETWORK, the load balancers' network, to the sidecar's --listen."
    end
    private_class_method :refuse_proxy_protocol

    ::Puma::DSL.include(DSL)
    ::Puma::Server.prepend(Server)
  end
end
