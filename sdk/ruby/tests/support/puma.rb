# frozen_string_literal: true

require "tmpdir"

# Puma as a process, with an app and a configuration given as text.
class PumaProcess
  APP = <<~RUBY
    run lambda { |env|
      case env["PATH_INFO"]
      when "/pid" then [200, {}, [Process.pid.to_s]]
      when "/sleep" then sleep(env["QUERY_STRING"].to_f); [200, {}, ["slept"]]
      when "/echo" then [200, {}, [env["rack.input"].read]]
      when "/big" then [200, {}, ["x" * (12 << 20)]]
      when "/address" then [200, {}, [env["REMOTE_ADDR"]]]
      when "/close" then [200, { "Connection" => "close" }, ["bye"]]
      when "/partial" then [200, { "rack.hijack" => lambda { |socket| socket.write("mine"); socket.close } }, []]
      when "/fail" then raise "oops"
      else [200, {}, ["hello"]]
      end
    }
  RUBY

  LIBRARY = File.expand_path("../../lib", __dir__)

  def initialize(sidecar, config, workers: 1, attached: true)
    @directory = Dir.mktmpdir("puma")
    File.write("#{@directory}/config.ru", APP)
    File.write("#{@directory}/puma.rb", config)
    @pid = spawn({ "ANTEROOM_HANDOFF" => sidecar.handoff, "RUBYLIB" => LIBRARY }, "puma", "-C", "puma.rb", "-e", "production",
                 chdir: @directory, in: File::NULL, out: "#{@directory}/log", err: "#{@directory}/log")
    wait("attached to the sidecar", workers) if attached
  end

  def log
    File.read("#{@directory}/log")
  end

  # Waits until the log has that so many times.
  def wait(text, count = 1)
    400.times do
      return if log.scan(text).size >= count
      raise "puma has ended: #{log}" if Process.wait(@pid, Process::WNOHANG)

      sleep 0.05
    end
    raise "puma did not say #{text.inspect} #{count} times: #{log}"
  end

  def kill(signal)
    Process.kill(signal, @pid)
  end

  # Waits for the end. Returns the exit status.
  def end_status
    @status ||= Process.wait2(@pid)[1]
  end

  def remove
    kill("TERM") unless @status
    end_status
    FileUtils.rm_rf(@directory)
  end
end
