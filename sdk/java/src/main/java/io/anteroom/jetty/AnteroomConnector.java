package io.anteroom.jetty;

import io.anteroom.Client;
import io.anteroom.ClientConnection;
import io.anteroom.Lease;
import io.anteroom.Options;
import io.anteroom.Poller;
import java.util.concurrent.Future;
import org.eclipse.jetty.io.Connection;
import org.eclipse.jetty.io.EndPoint;
import org.eclipse.jetty.server.AbstractConnector;
import org.eclipse.jetty.server.Connector;
import org.eclipse.jetty.server.HttpConfiguration;
import org.eclipse.jetty.server.HttpConnection;
import org.eclipse.jetty.server.HttpConnectionFactory;
import org.eclipse.jetty.server.ProxyConnectionFactory;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.util.annotation.ManagedObject;
import org.eclipse.jetty.util.thread.ThreadPool;

/**
 * A connector whose connections are lent by an Anteroom sidecar, in the place of a ServerConnector: clients that are idle or slow cost the server
 * nothing, and survive its restart.
 *
 * <p>{@code server.addConnector(new AnteroomConnector(server));}
 *
 * <p>HTTP/1 without TLS. When the server stops gracefully ({@code setStopTimeout}), leases that are out are finished first.
 */
@ManagedObject("A connector whose connections are lent by an Anteroom sidecar")
public class AnteroomConnector extends AbstractConnector {
  private static final int SPARE_THREADS = 8; // for what a server does beside requests

  private final Options options;
  private Client client;
  private Poller poller;

  /** With what the environment says, see {@link Options#fromEnvironment}, and as many leases at once as the server has threads for. */
  public AnteroomConnector(Server server) {
    this(server, Options.fromEnvironment(threads(server)), new HttpConnectionFactory());
  }

  public AnteroomConnector(Server server, Options options, HttpConnectionFactory http) {
    super(server, null, null, null, 0, http);
    this.options = options;
    http.getHttpConfiguration().addCustomizer(AnteroomConnector::sayIfLast);
  }

  private static int threads(Server server) {
    int threads = server.getThreadPool() instanceof ThreadPool.SizedThreadPool pool ? pool.getMaxThreads() : 200;
    return Math.max(1, Math.min(threads - SPARE_THREADS, Options.MAX_CAPACITY));
  }

  /** Where there is no room to keep one more connection, its client is told. */
  private static void sayIfLast(Connector connector, HttpConfiguration config, Request request) {
    if (request.getHttpChannel().getEndPoint() instanceof LeasedEndPoint endPoint && endPoint.isLast()) {
      request.getResponse().getHttpFields().put(HttpConnection.CONNECTION_CLOSE);
    }
  }

  /** Whether the sidecar has welcomed this server. */
  public boolean isAttached() {
    return client != null && client.attached();
  }

  @Override
  protected void doStart() throws Exception {
    refuseProxyHeaders();
    super.doStart();
    poller = new Poller(getName() + "-poller");
    client = new Client(options, new Lender(), getExecutor()).start();
  }

  /** The header comes once for each connection, which Jetty may be lent for any of its requests. */
  private void refuseProxyHeaders() {
    if (getConnectionFactory(ProxyConnectionFactory.class) != null) {
      throw new IllegalStateException("A ProxyConnectionFactory has no place behind Anteroom, which reads the PROXY header itself: take it out,"
          + " and add ?proxy=NETWORK, the load balancers' network, to the sidecar's --listen.");
    }
  }

  /**
   * Take no new leases; the future completes when those that are out have been answered.
   *
   * <p>Jetty's own idea of it is not called for: it would end the connections, which the sidecar keeps.
   */
  @Override
  public Future<Void> shutdown() {
    return client.drain();
  }

  @Override
  protected void doStop() throws Exception {
    client.close();
    super.doStop();
    poller.close();
  }

  @Override
  protected void accept(int acceptor) {
    throw new UnsupportedOperationException("the sidecar accepts");
  }

  @Override
  public Object getTransport() {
    return client;
  }

  @Override
  public String getName() {
    return super.getName() == null ? "anteroom" : super.getName();
  }

  private final class Lender implements Client.Host {
    @Override
    public void lease(Lease lease) {
      ClientConnection connection = lease.connection();
      LeasedEndPoint endPoint = connection.attachment() instanceof LeasedEndPoint kept ? kept : open(connection);
      endPoint.lend(lease);
    }

    private LeasedEndPoint open(ClientConnection client) {
      LeasedEndPoint endPoint = new LeasedEndPoint(AnteroomConnector.this, poller, client);
      endPoint.setIdleTimeout(getIdleTimeout());
      Connection connection = getDefaultConnectionFactory().newConnection(AnteroomConnector.this, endPoint);
      endPoint.setConnection(connection);
      endPoint.onOpen();
      onEndPointOpened(endPoint);
      connection.onOpen();
      return endPoint;
    }

    @Override
    public void forget(ClientConnection connection) {
      if (connection.attachment() instanceof LeasedEndPoint endPoint) {
        endPoint.forgotten();
      }
    }
  }

  void closed(EndPoint endPoint) {
    onEndPointClosed(endPoint);
  }
}
