# frozen_string_literal: true

require_relative "../anteroom"
require_relative "http/reader"
require_relative "http/response"

module Anteroom
  # A Rack server of threads, each with a lease at a time. HTTP/1.1 and 1.0; the sidecar does the listening and the waiting.
  class Server
    DEFAULT_THREADS = 5

    # Why a refused request ends its connection, by the status.
    REASONS = { 408 => CloseReason::TOO_SLOW, 500 => CloseReason::APP }.freeze
    private_constant :REASONS

    # +threads+ is also how many leases it takes at once; else ANTEROOM_CAPACITY, else 5. The other options are those of Host.
    def initialize(app, threads: nil, errors: $stderr, **options)
      @app = app
      @errors = errors
      threads ||= ENV.fetch("ANTEROOM_CAPACITY", "").empty? ? DEFAULT_THREADS : ENV["ANTEROOM_CAPACITY"]
      @host = Host.new(capacity: Integer(threads), log: ->(line) { errors.puts(line) }, **options)
    end

    # Serves until +drain+ is called and the last request is answered.
    def run
      @host.start
      Array.new(@host.capacity) { Thread.new { work } }.each(&:join)
      @host.join
    end

    # Leaves in good order. Returns at once.
    def drain
      @host.drain
    end

    private

    def work
      while (lease = @host.next)
        serve(lease)
      end
    end

    # Serves what was read under one lease, then gives the connection back. Never raises.
    def serve(lease)
      lease.begin_request
      reader = HTTP::Reader.new(lease.socket)
      requests = 1
      outcome = nil
      requests += 1 while (outcome = answer(lease, reader)) == :keep && reader.pending?
      give_back(lease, outcome, requests)
    rescue HTTP::Refusal => e
      refuse(lease, e)
    rescue HTTP::ClientGone
      lease.close(CloseReason::CLIENT)
    rescue StandardError => e # in the middle of a response
      complain(e)
    ensure
      lease.close(CloseReason::APP) unless lease.over?
    end

    def give_back(lease, outcome, requests)
      case outcome
      when :keep then lease.put(requests: requests)
      when :close then lease.close(requests: requests)
      end
    end

    def answer(lease, reader)
      request = reader.read
      response = HTTP::Response.new(lease, request, behind: reader.rest)
      hijacked = false
      status, headers, body = call(env(lease, request) { hijacked = lease.detach(reader.rest) || true })
      hijacked ? :gone : deliver(response, status, headers, body)
    ensure
      request&.body&.close
    end

    def deliver(response, status, headers, body)
      response.write(Integer(status), headers, body)
    rescue HTTP::ClientGone
      raise
    rescue StandardError => e
      raise if response.begun?

      complain(e)
      raise HTTP::Refusal.new(500, "the app has failed")
    end

    def call(env)
      @app.call(env)
    rescue StandardError, ScriptError, SystemStackError => e
      complain(e)
      [500, { "content-type" => "text/plain" }, ["Internal Server Error\n"]]
    end

    # The block is called when the app hijacks the connection.
    def env(lease, request)
      path, query = request.target.split("?", 2)
      env = {
        "REQUEST_METHOD" => request.verb, "SCRIPT_NAME" => "", "PATH_INFO" => path, "QUERY_STRING" => query || "",
        "SERVER_PROTOCOL" => request.version, "HTTP_VERSION" => request.version, "SERVER_SOFTWARE" => "anteroom/#{VERSION}",
        "REQUEST_URI" => request.target, "REMOTE_ADDR" => address(lease),
        "rack.version" => [1, 6], "rack.url_scheme" => "http", "rack.input" => request.body, "rack.errors" => @errors,
        "rack.multithread" => true, "rack.multiprocess" => true, "rack.run_once" => false, "rack.hijack?" => true,
        "rack.hijack" => -> { env["rack.hijack_io"] ||= lease.socket.tap { yield } }
      }
      add_server(env, request)
      add_fields(env, request)
      env
    end

    def add_server(env, request)
      _, name, port = */\A(\[.*\]|[^:]*)(?::(\d+))?\z/.match(request["host"].to_s)
      env["SERVER_NAME"] = name.to_s.empty? ? "localhost" : name
      env["SERVER_PORT"] = port || "80"
    end

    # Names with an underscore are left out: they could pass for others.
    def add_fields(env, request)
      request.fields.each do |name, values|
        next if name.include?("_")

        key = name.upcase.tr("-", "_")
        key = "HTTP_#{key}" unless ["CONTENT_TYPE", "CONTENT_LENGTH"].include?(key)
        env[key] = values.join(name == "cookie" ? "; " : ", ")
      end
      return unless request.chunked? # the body is here as a whole

      env.delete("HTTP_TRANSFER_ENCODING")
      env["CONTENT_LENGTH"] = request.body.size.to_s
    end

    def address(lease)
      lease.connection.peer || lease.connection.address
    rescue Errno::ENOTCONN => e # getpeername(2) after a reset
      raise HTTP::ClientGone, e.message
    end

    def refuse(lease, refusal)
      phrase = HTTP::Response::PHRASES.fetch(refusal.status)
      body = "#{phrase}: #{refusal.message}\n"
      lease.socket.syswrite("HTTP/1.1 #{refusal.status} #{phrase}\r\nContent-Type: text/plain\r\n" \
                            "Content-Length: #{body.bytesize}\r\nConnection: close\r\n\r\n#{body}")
      lease.close(REASONS.fetch(refusal.status, CloseReason::CLIENT))
    rescue SystemCallError, IOError
      nil
    end

    def complain(error)
      @errors.puts("#{error.class}: #{error.message}", *error.backtrace.first(20))
    end
  end
end
