# frozen_string_literal: true

require "minitest/autorun"
require "anteroom"
require "tmpdir"

# What all tests share.
module Helper
  PATIENCE = 20

  # Waits until the block gives something true, and returns that.
  def eventually(what = "it", timeout: PATIENCE)
    deadline = now + timeout
    until (found = yield)
      flunk "#{what} did not happen within #{timeout} s" if now > deadline
      sleep 0.005
    end
    found
  end

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end

  # Open descriptors of this process that are sockets or deleted files.
  def descriptors
    GC.start
    Dir.children("/proc/self/fd").count do |fd|
      target = File.readlink("/proc/self/fd/#{fd}")
      target.start_with?("socket:") || target.include?("(deleted)") || target.include?("/dev/shm")
    rescue Errno::ENOENT
      false
    end
  end

  def assert_no_descriptor_leaks
    before = descriptors
    yield
    eventually("closing all descriptors") { descriptors <= before }
  end

  # Runs the block while this process can open no descriptor more.
  def without_descriptors
    limit = Process.getrlimit(:NOFILE)
    Process.setrlimit(:NOFILE, 3, limit[1])
    yield
  ensure
    Process.setrlimit(:NOFILE, *limit)
  end

  # A connected pair: what the client holds, and what the sidecar would lend.
  def tcp_pair
    server = TCPServer.new("127.0.0.1", 0)
    client = TCPSocket.new("127.0.0.1", server.addr[1])
    [client, server.accept]
  ensure
    server&.close
  end
end
