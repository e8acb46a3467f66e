package io.anteroom;

import java.io.BufferedInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** A sidecar, and hosts behind it, as processes, in a folder of their own. */
final class Rig {
  static final int CAPACITY = 4;

  private static final String BINARY = System.getenv("ANTEROOM_TEST_BINARY");

  private final Path folder;
  private final int port;
  private final List<Process> hosts = new ArrayList<>();
  private Process sidecar;

  Rig() {
    if (BINARY == null) {
      throw new IllegalStateException("ANTEROOM_TEST_BINARY must name the sidecar's binary: run 'make build', then set it to the path of bin/anteroom");
    }
    try {
      folder = Files.createTempDirectory("anteroom-java-");
      port = freePort();
      startSidecar();
    } catch (IOException why) {
      throw new IllegalStateException(why);
    }
  }

  private static int freePort() throws IOException {
    try (ServerSocket probe = new ServerSocket(0)) {
      return probe.getLocalPort();
    }
  }

  Path folder() {
    return folder;
  }

  String handoff() {
    return folder + "/handoff.sock";
  }

  void startSidecar() throws IOException {
    sidecar = start("sidecar", List.of(BINARY, "serve", "--listen", "tcp://127.0.0.1:" + port, "--handoff", handoff(), "--control",
        "unix://" + folder + "/control.sock", "--drain-timeout", "2s"));
    await(() -> !ask("status").isEmpty(), "the sidecar answers");
  }

  void killSidecar() throws Exception {
    sidecar.destroyForcibly().waitFor();
  }

  /** Run a class's main as a host. */
  Process startHost(Class<?> main, String... arguments) throws IOException {
    List<String> command = new ArrayList<>(List.of(System.getProperty("java.home") + "/bin/java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m",
        "-cp", System.getProperty("java.class.path"), main.getName()));
    command.addAll(Arrays.asList(arguments));
    Process host = start("host", command);
    hosts.add(host);
    return host;
  }

  /** Have a process open no more than so many descriptors beyond those that it has. */
  void limitDescriptors(Process process, int more) throws Exception {
    int highest;
    try (Stream<Path> open = Files.list(Path.of("/proc/" + process.pid() + "/fd"))) {
      highest = open.mapToInt(path -> Integer.parseInt(path.getFileName().toString())).max().getAsInt();
    }
    String limit = "--nofile=" + (highest + 1 + more);
    int status = new ProcessBuilder("prlimit", "--pid", Long.toString(process.pid()), limit).inheritIO().start().waitFor();
    if (status != 0) {
      throw new IllegalStateException("prlimit " + limit + " ended with " + status);
    }
  }

  private Process start(String name, List<String> command) throws IOException {
    ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true);
    builder.redirectOutput(ProcessBuilder.Redirect.appendTo(folder.resolve(name + ".log").toFile()));
    builder.environment().put("ANTEROOM_HANDOFF", handoff());
    builder.environment().put("ANTEROOM_POOL", "default");
    builder.environment().put("ANTEROOM_CAPACITY", Integer.toString(CAPACITY));
    return builder.start();
  }

  /** The answer to a command of anteroom for operators, empty if there is none. */
  String ask(String command) throws IOException {
    ProcessBuilder builder = new ProcessBuilder(BINARY, command, "--control", "unix://" + folder + "/control.sock");
    Process process = builder.redirectError(ProcessBuilder.Redirect.DISCARD).start();
    return new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
  }

  interface Condition {
    boolean holds() throws IOException;
  }

  void await(Condition condition, String what) throws IOException {
    long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
    while (!condition.holds()) {
      if (System.nanoTime() > end) {
        throw new AssertionError("not within 20 s: " + what + logs());
      }
      try {
        Thread.sleep(10);
      } catch (InterruptedException why) {
        throw new AssertionError(why);
      }
    }
  }

  /** What the processes have printed. */
  String logs() throws IOException {
    StringBuilder logs = new StringBuilder();
    for (String name : List.of("sidecar.log", "host.log")) {
      if (Files.exists(folder.resolve(name))) {
        logs.append('\n').append(name).append(":\n").append(Files.readString(folder.resolve(name)));
      }
    }
    return logs.toString();
  }

  Browser connect() throws IOException {
    return new Browser(new Socket("127.0.0.1", port));
  }

  void end() throws Exception {
    for (Process host : hosts) {
      host.destroyForcibly().waitFor();
    }
    killSidecar();
    try (Stream<Path> all = Files.walk(folder)) {
      for (Path path : all.sorted(Comparator.reverseOrder()).toList()) {
        Files.delete(path);
      }
    }
  }

  /** A response; status 0: the connection has ended. */
  record Answer(int status, String head, String body) {
    String field(String name) {
      return head.lines().filter(line -> line.toLowerCase().startsWith(name.toLowerCase() + ": ")).findFirst().map(line -> line.substring(name.length() + 2))
          .orElse("");
    }
  }

  /** A client with one keep-alive connection. */
  static final class Browser {
    private final Socket socket;
    private final InputStream in;

    private Browser(Socket socket) throws IOException {
      this.socket = socket;
      socket.setSoTimeout(20_000);
      in = new BufferedInputStream(socket.getInputStream());
    }

    /** Send a request, such as "GET /". */
    void send(String request, String body, String... fields) throws IOException {
      StringBuilder text = new StringBuilder(request).append(" HTTP/1.1\r\nHost: test\r\n");
      for (String field : fields) {
        text.append(field).append("\r\n");
      }
      if (!body.isEmpty()) {
        text.append("Content-Length: ").append(body.length()).append("\r\n");
      }
      socket.getOutputStream().write(text.append("\r\n").append(body).toString().getBytes(StandardCharsets.ISO_8859_1));
    }

    Answer receive() throws IOException {
      StringBuilder head = new StringBuilder();
      for (String line = line(); !line.isEmpty(); line = line()) {
        if (!line.endsWith("\n")) {
          return new Answer(0, head.toString(), "");
        }
        if (line.equals("\r\n")) {
          break;
        }
        head.append(line);
      }
      if (head.isEmpty()) {
        return new Answer(0, "", "");
      }
      Answer answer = new Answer(Integer.parseInt(head.substring(9, 12)), head.toString(), "");
      return new Answer(answer.status, answer.head, body(answer));
    }

    private String body(Answer answer) throws IOException {
      if (!answer.field("Transfer-Encoding").isEmpty()) {
        StringBuilder body = new StringBuilder();
        for (int size = Integer.parseInt(line().trim(), 16); size > 0; size = Integer.parseInt(line().trim(), 16)) {
          body.append(text(size));
          line();
        }
        line();
        return body.toString();
      }
      String length = answer.field("Content-Length");
      return text(length.isEmpty() ? 0 : Integer.parseInt(length));
    }

    private String text(int length) throws IOException {
      return new String(in.readNBytes(length), StandardCharsets.ISO_8859_1);
    }

    private String line() throws IOException {
      StringBuilder line = new StringBuilder();
      try {
        for (int c = in.read(); c >= 0; c = in.read()) {
          line.append((char) c);
          if (c == '\n') {
            break;
          }
        }
      } catch (java.net.SocketException reset) {
        return "";
      }
      return line.toString();
    }

    Answer ask(String request, String body, String... fields) throws IOException {
      send(request, body, fields);
      return receive();
    }
  }
}
