# frozen_string_literal: true

require_relative "server"

module Anteroom
  # What rackup calls for "-s anteroom". Its options -o and -p have no say: the sidecar listens.
  module RackHandler
    OPTIONS = { Handoff: :path, Pool: :pool, Name: :name, Threads: :threads }.freeze

    # What rackup and Rails give to every server, among the names that begin with a capital, as those of options for a server do.
    IGNORED = [:Host, :Port, :AccessLog, :DoNotReverseLookup].freeze
    private_constant :IGNORED

    # Serves until SIGTERM or SIGINT, then leaves in good order. Yields the server before. Raises ArgumentError for options that it does
    # not know.
    def self.run(app, **options)
      check(options.keys)
      chosen = OPTIONS.filter_map { |theirs, ours| [ours, options[theirs]] if options[theirs] }.to_h
      @server = Server.new(app, **chosen)
      yield @server if block_given?
      ["TERM", "INT"].each { |signal| Signal.trap(signal) { shutdown } }
      @server.run
    end

    def self.check(names)
      unknown = names.reject { |name| OPTIONS.key?(name) || IGNORED.include?(name) }
      unknown.select! { |name| name.match?(/\A[A-Z]/) || OPTIONS.keys.any? { |ours| ours.to_s.casecmp?(name.to_s) } }
      raise ArgumentError, "Unknown option #{unknown.first}. Anteroom's are #{OPTIONS.keys.join(", ")}." unless unknown.empty?
    end
    private_class_method :check

    def self.valid_options
      {
        "Handoff=PATH" => "the sidecar's handoff socket (default: ANTEROOM_HANDOFF, else #{Host::DEFAULT_PATH})",
        "Pool=NAME" => "the pool to serve (default: ANTEROOM_POOL, else default)",
        "Name=NAME" => "what operators see (default: ANTEROOM_NAME, else ruby-PID)",
        "Threads=NUMBER" => "requests at once (default: ANTEROOM_CAPACITY, else #{Server::DEFAULT_THREADS})"
      }
    end

    # Leaves in good order. May be called in a signal handler, where no lock may be taken: hence the thread.
    def self.shutdown
      Thread.new { @server&.drain }
    end
  end
end
