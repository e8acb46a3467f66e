# frozen_string_literal: true

require "support/helper"
require "support/client"
require "support/real_sidecar"

# rackup, and what the README shows.
class TestRackHandler < Minitest::Test
  include Helper
  SDK = File.expand_path("..", __dir__)

  def setup
    @sidecar = RealSidecar.new
    @directory = Dir.mktmpdir
  end

  def teardown
    @sidecar.stop
    @sidecar.remove
    FileUtils.rm_rf(@directory)
  end

  # The code blocks of the README, by the name in their first line.
  def shown
    File.read("#{SDK}/README.md").scan(/^```ruby\n(.*?)^```/m).flatten.to_h { |code| [code[/\A# (\S+)/, 1], code] }
  end

  # Runs the command until the block has passed, then ends it with SIGTERM. Returns what it printed.
  def run_until(command, **environment)
    environment = { "RUBYLIB" => "#{SDK}/lib", "ANTEROOM_HANDOFF" => @sidecar.handoff, **environment.transform_keys(&:to_s) }
    pid = spawn(environment, *command, chdir: @directory, in: File::NULL, out: "#{@directory}/log", err: "#{@directory}/log")
    eventually("attaching") { File.read("#{@directory}/log").include?("attached") }
    client = Client.new(@sidecar.port)
    yield client
    Process.kill("TERM", pid)
    assert_predicate Process.wait2(pid)[1], :success?
    File.read("#{@directory}/log")
  ensure
    client&.close
  end

  def test_rackup
    File.write("#{@directory}/config.ru", shown.fetch("config.ru"))
    run_until(["rackup", "--server", "anteroom", "--option", "Threads=3", "--option", "Name=shown", "--env", "none"]) do |client|
      2.times { assert_equal "hello\n", client.get("/").body }
      assert_equal ["shown", 3, "default"], @sidecar.hosts[0].values_at("name", "capacity", "pool")
    end
  end

  def test_unknown_options_are_mistakes
    File.write("#{@directory}/config.ru", shown.fetch("config.ru"))
    ["Thread=3", "threads=3"].each do |option|
      printed = IO.popen({ "RUBYLIB" => "#{SDK}/lib" }, ["rackup", "--server", "anteroom", "--option", option], chdir: @directory, err: [:child, :out], &:read)
      assert_match(/Unknown option #{option[/\w+/]}. Anteroom's are Handoff, Pool, Name, Threads\./, printed)
    end
  end

  def test_the_rackup_of_rack_3_finds_it
    File.write("#{@directory}/rackup/handler.rb".tap { |path| FileUtils.mkdir_p(File.dirname(path)) }, <<~RUBY)
      module Rackup
        module Handler
          def self.register(name, handler)
            puts "\#{name} \#{handler}"
          end
        end
      end
    RUBY
    printed = IO.popen(["ruby", "-I#{SDK}/lib", "-I#{@directory}", "-e", 'require "rackup/handler/anteroom"'], &:read)
    assert_equal "anteroom Anteroom::RackHandler\n", printed
  end

  def test_the_host_of_ones_own
    File.write("#{@directory}/host.rb", shown.fetch("host.rb"))
    run_until(["ruby", "host.rb"]) { |client| 2.times { assert_equal "hello\n", client.get("/").body } }
  end

  def test_the_gem_builds
    built = IO.popen(["gem", "build", "anteroom.gemspec", "--output", "#{@directory}/anteroom.gem"], chdir: SDK, err: [:child, :out], &:read)
    assert File.exist?("#{@directory}/anteroom.gem"), built
  end
end
