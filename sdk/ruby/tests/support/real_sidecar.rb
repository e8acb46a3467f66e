# frozen_string_literal: true

require "fileutils"
require "json"
require "socket"
require "tmpdir"

# The sidecar's binary as a process, with one listener of the pool "default".
class RealSidecar
  attr_reader :port, :handoff

  def initialize(ready: "request", port: nil, directory: nil, proxy: nil)
    @directory = directory || Dir.mktmpdir("anteroom")
    @port = port || free_port
    @handoff = "#{@directory}/handoff.sock"
    @log = "#{@directory}/log"
    @listen = "tcp://127.0.0.1:#{@port}?ready=#{ready}#{"&proxy=#{proxy}" if proxy}"
    start
  end

  def start
    @pid = spawn(binary, "serve", "--listen", @listen, "--handoff", @handoff, "--control", "unix://#{@directory}/control.sock",
                 in: File::NULL, out: [@log, "a"], err: [@log, "a"])
    wait
  end

  # Dies, as by kill -9, or leaves (TERM).
  def stop(signal = "KILL")
    Process.kill(signal, @pid)
    Process.wait(@pid)
  end

  def remove
    FileUtils.rm_rf(@directory)
    @reservation&.close
  end

  def hosts
    JSON.parse(command("hosts", "--json"))["hosts"]
  end

  def command(*words)
    IO.popen([binary, *words, "--control", "unix://#{@directory}/control.sock"], &:read)
  end

  def log
    File.read(@log)
  end

  private

  def binary
    ENV.fetch("ANTEROOM_TEST_BINARY")
  end

  # Returns a port that is reserved until remove: a socket that does not listen holds it, and
  # SO_REUSEADDR lets the sidecar listen on it all the same (socket(7)).
  def free_port
    @reservation = Socket.new(:INET, :STREAM)
    @reservation.setsockopt(:SOCKET, :REUSEADDR, true)
    @reservation.bind(Addrinfo.tcp("127.0.0.1", 0))
    @reservation.local_address.ip_port
  end

  def wait
    200.times do
      UNIXSocket.new(@handoff).close
      return TCPSocket.new("127.0.0.1", @port).close
    rescue SystemCallError
      raise "the sidecar has ended: #{log}" if Process.wait(@pid, Process::WNOHANG)

      sleep 0.05
    end
    raise "the sidecar does not listen: #{log}"
  end
end
