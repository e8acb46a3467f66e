package io.anteroom.jetty;

import java.time.Duration;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.eclipse.jetty.server.Connector;
import org.eclipse.jetty.server.Server;
import sun.misc.Signal;

/**
 * Stops a server on SIGTERM and SIGINT such that no request is lost: what was lent is finished, then the server stops, and {@code server.join()} returns.
 *
 * <p>Server.stop alone has its contexts answer 503 to requests that arrive while others are being finished.
 */
public final class GracefulStop {
  private GracefulStop() {}

  /** For this server, giving what is being served so much time. A second signal halts the process at once. */
  public static void onSignals(Server server, Duration grace) {
    for (String name : new String[] {"TERM", "INT"}) {
      Signal.handle(new Signal(name), first -> {
        for (String again : new String[] {"TERM", "INT"}) {
          Signal.handle(new Signal(again), second -> Runtime.getRuntime().halt(128 + second.getNumber()));
        }
        stop(server, grace);
      });
    }
  }

  /** Now. Returns when the server has stopped. */
  public static void stop(Server server, Duration grace) {
    long deadline = System.nanoTime() + grace.toNanos();
    for (Connector connector : server.getConnectors()) {
      if (connector instanceof AnteroomConnector) {
        await(connector.shutdown(), deadline - System.nanoTime());
      }
    }
    try {
      server.stop();
    } catch (Exception why) {
      System.getLogger("io.anteroom").log(System.Logger.Level.WARNING, "the server did not stop well", why);
    }
  }

  private static void await(Future<Void> drained, long nanos) {
    try {
      drained.get(Math.max(nanos, 0), TimeUnit.NANOSECONDS);
    } catch (TimeoutException | ExecutionException why) {
      System.getLogger("io.anteroom").log(System.Logger.Level.WARNING, "requests are cut off, they take too long");
    } catch (InterruptedException why) {
      Thread.currentThread().interrupt();
    }
  }
}
