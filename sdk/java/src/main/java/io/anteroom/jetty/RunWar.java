package io.anteroom.jetty;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.webapp.WebAppContext;

/** Serves a web application, a .war file or a folder, unchanged: {@code java -cp … io.anteroom.jetty.RunWar [--context /path] app.war}. */
public final class RunWar {
  private static final Duration GRACE = Duration.ofSeconds(30);

  private RunWar() {}

  public static void main(String[] arguments) throws Exception {
    boolean named = arguments.length == 3 && arguments[0].equals("--context");
    if (!named && arguments.length != 1) {
      System.err.println("Usage: RunWar [--context /path] app.war");
      System.exit(2);
    }
    Path app = Path.of(arguments[arguments.length - 1]);
    if (!Files.exists(app)) {
      System.err.println("There is no " + app + ".");
      System.exit(2);
    }
    Server server = new Server();
    server.addConnector(new AnteroomConnector(server));
    WebAppContext context = new WebAppContext(app.toString(), named ? arguments[1] : "/");
    context.setThrowUnavailableOnStartupException(true);
    server.setHandler(context);
    server.start();
    GracefulStop.onSignals(server, GRACE);
    server.join();
  }
}
