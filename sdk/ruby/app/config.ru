# frozen_string_literal: true

# The conformance app: what every language's SDK answers alike.

require "tempfile"

# The responses, one method for each path.
class ConformanceApp
  TEXT = { "content-type" => "text/plain" }.freeze
  LETTERS = (("a".."z").to_a.join * 4096).freeze
  MAX_NUMBER = 100_000_000

  # A body of +size+ letters, made as it is sent.
  Letters = Struct.new(:size) do
    def each
      offset = 0
      while offset < size
        part = LETTERS.byteslice(offset % 26, [size - offset, 65_536].min)
        yield part
        offset += part.bytesize
      end
    end
  end

  # A file that is sent by the server and then gone.
  SentFile = Struct.new(:file) do
    def to_path
      file.path
    end

    def each
      file.rewind
      while (part = file.read(65_536))
        yield part
      end
    end

    def close
      file.close!
    end
  end

  def call(env)
    status, headers, body = route(env)
    echo = env["HTTP_X_ECHO"]
    headers = headers.merge("X-Echo" => echo) if echo
    [status, headers, body]
  end

  private

  def route(env)
    case env["PATH_INFO"]
    when "/" then text("hello from ruby\n")
    when "/echo" then echo(env)
    when "/bytes" then [200, TEXT.merge("content-length" => number(env, "n").to_s), Letters.new(number(env, "n"))]
    when "/stream" then [200, TEXT, Letters.new(number(env, "n"))]
    when "/status" then status(number(env, "code"))
    when "/sleep" then text("slept\n") { sleep(number(env, "ms") / 1000.0) }
    when "/close" then [200, TEXT.merge("connection" => "close"), ["bye\n"]]
    when "/peer" then text("#{env["REMOTE_ADDR"]}\n")
    when "/pid" then text("#{Process.pid}\n")
    when "/crash" then Process.exit!(1)
    when "/file" then file(number(env, "n"))
    when "/upgrade" then upgrade(env)
    else not_found
    end
  end

  def text(body)
    yield if block_given?
    [200, TEXT, [body]]
  end

  def not_found
    [404, TEXT, ["not found\n"]]
  end

  def number(env, name)
    env["QUERY_STRING"][/(?:\A|&)#{name}=(\d{1,9})(?:&|\z)/, 1].to_i.clamp(0, MAX_NUMBER)
  end

  def echo(env)
    return not_found unless ["POST", "PUT"].include?(env["REQUEST_METHOD"])

    [200, { "content-type" => "application/octet-stream" }, [env["rack.input"].read]]
  end

  def status(code)
    [204, 304].include?(code) ? [code, {}, []] : [code, TEXT, ["#{code}\n"]]
  end

  def file(size)
    file = Tempfile.new("conformance", binmode: true)
    Letters.new(size).each { |part| file.write(part) }
    file.flush
    [200, TEXT.merge("content-length" => size.to_s), SentFile.new(file)]
  end

  # A full hijack: the connection is the app's from here on.
  def upgrade(env)
    return not_found unless env["HTTP_UPGRADE"] == "echo"

    socket = env["rack.hijack"].call
    extra = env["HTTP_X_ECHO"] ? "X-Echo: #{env["HTTP_X_ECHO"]}\r\n" : ""
    Thread.new { echo_bytes(socket, extra) }
    [-1, {}, []]
  end

  def echo_bytes(socket, extra)
    socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n#{extra}\r\n")
    loop { socket.write(socket.readpartial(65_536)) }
  rescue EOFError, SystemCallError
    nil
  ensure
    socket.close
  end
end

run ConformanceApp.new
