package io.anteroom.conformance;

import io.anteroom.Options;
import io.anteroom.jetty.AnteroomConnector;
import io.anteroom.jetty.GracefulStop;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import javax.servlet.http.HttpServlet;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import org.eclipse.jetty.server.HttpConnection;
import org.eclipse.jetty.server.HttpConnectionFactory;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;

/** The app that every SDK's conformance script serves (docs/hosts.md), as a servlet; with a port as argument, without the sidecar, to compare. */
public final class App extends HttpServlet {
  private static final long serialVersionUID = 1;
  private static final int MOST = 100_000_000;
  private static final byte[] LETTERS = letters();

  public static void main(String[] arguments) throws Exception {
    Server server = new Server();
    server.addConnector(arguments.length == 0
        ? new AnteroomConnector(server, Options.fromEnvironment(16), new HttpConnectionFactory())
        : alone(server, Integer.parseInt(arguments[0])));
    ServletContextHandler context = new ServletContextHandler();
    context.addServlet(new ServletHolder(new App()), "/*");
    server.setHandler(context);
    server.start();
    GracefulStop.onSignals(server, Duration.ofSeconds(30));
    server.join();
  }

  private static ServerConnector alone(Server server, int port) {
    ServerConnector connector = new ServerConnector(server);
    connector.setHost("127.0.0.1");
    connector.setPort(port);
    return connector;
  }

  @Override
  protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
    String echo = request.getHeader("X-Echo");
    if (echo != null) {
      response.setHeader("X-Echo", echo);
    }
    try {
      answer(request, response);
    } catch (IllegalArgumentException why) {
      text(response, 400, why.getMessage() + "\n");
    }
  }

  private static void answer(HttpServletRequest request, HttpServletResponse response) throws IOException {
    String method = request.getMethod().equals("HEAD") ? "GET" : request.getMethod();
    switch (method + " " + request.getPathInfo()) {
      case "GET /" -> text(response, 200, "hello from java\n");
      case "POST /echo", "PUT /echo" -> echo(request, response);
      case "GET /bytes", "GET /file" -> bytes(response, number(request, "n"), true);
      case "GET /stream" -> bytes(response, number(request, "n"), false);
      case "GET /status" -> status(response, number(request, "code"));
      case "GET /sleep" -> sleep(response, number(request, "ms"));
      case "GET /close" -> {
        response.setHeader("Connection", "close");
        text(response, 200, "bye\n");
      }
      case "GET /peer" -> text(response, 200, plain(request.getRemoteAddr()) + "\n");
      case "GET /pid" -> text(response, 200, ProcessHandle.current().pid() + "\n");
      case "GET /crash" -> Runtime.getRuntime().halt(1);
      case "GET /upgrade" -> upgrade(request, response);
      default -> text(response, 404, "not found\n");
    }
  }

  /** An address as RFC 5952 writes it: Java writes all zeros of IPv6, and Jetty brackets around them. */
  private static String plain(String address) {
    return address.replaceAll("[\\[\\]]", "").replaceFirst("(?:^|:)0(?::0)+(?::|$)", "::");
  }

  private static int number(HttpServletRequest request, String name) {
    String value = request.getParameter(name);
    if (value == null || !value.matches("[0-9]{1,9}") || Integer.parseInt(value) > MOST) {
      throw new IllegalArgumentException(name + " is a number from 0 to " + MOST);
    }
    return Integer.parseInt(value);
  }

  private static void text(HttpServletResponse response, int status, String text) throws IOException {
    byte[] body = text.getBytes(StandardCharsets.UTF_8);
    response.setStatus(status);
    response.setContentType("text/plain");
    response.setContentLength(body.length);
    response.getOutputStream().write(body);
  }

  private static void echo(HttpServletRequest request, HttpServletResponse response) throws IOException {
    byte[] body = request.getInputStream().readAllBytes();
    response.setContentLength(body.length);
    response.getOutputStream().write(body);
  }

  private static void bytes(HttpServletResponse response, int count, boolean lengthKnown) throws IOException {
    if (lengthKnown) {
      response.setContentLength(count);
    }
    OutputStream out = response.getOutputStream();
    for (int left = count; left > 0; left -= LETTERS.length) {
      out.write(LETTERS, 0, Math.min(left, LETTERS.length));
      if (!lengthKnown) {
        out.flush(); // or Jetty would count a short body itself
      }
    }
  }

  /** A whole number of alphabets. */
  private static byte[] letters() {
    byte[] letters = new byte[26 * 2500];
    for (int i = 0; i < letters.length; i++) {
      letters[i] = (byte) ('a' + i % 26);
    }
    return letters;
  }

  private static void status(HttpServletResponse response, int code) throws IOException {
    if (code < 200 || code > 999) {
      throw new IllegalArgumentException("code is a number from 200 to 999");
    }
    if (code == 204 || code == 304) {
      response.setStatus(code);
    } else {
      text(response, code, code + "\n");
    }
  }

  private static void sleep(HttpServletResponse response, int millis) throws IOException {
    try {
      Thread.sleep(millis);
    } catch (InterruptedException stopping) {
      Thread.currentThread().interrupt();
    }
    text(response, 200, "slept\n");
  }

  private static void upgrade(HttpServletRequest request, HttpServletResponse response) throws IOException {
    if (!"echo".equalsIgnoreCase(request.getHeader("Upgrade"))) {
      text(response, 400, "ask for Upgrade: echo\n");
      return;
    }
    var channel = Request.getBaseRequest(request).getHttpChannel();
    response.setStatus(101);
    response.setHeader("Connection", "Upgrade");
    response.setHeader("Upgrade", "echo");
    request.setAttribute(HttpConnection.UPGRADE_CONNECTION_ATTRIBUTE,
        new EchoConnection(channel.getEndPoint(), channel.getConnector().getExecutor()));
    response.flushBuffer();
  }
}
