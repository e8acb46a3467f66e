package io.anteroom.jetty;

import io.anteroom.ClientConnection;
import io.anteroom.CloseReason;
import io.anteroom.Lease;
import io.anteroom.NackReason;
import io.anteroom.Poller;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.TimeoutException;
import org.eclipse.jetty.io.AbstractEndPoint;
import org.eclipse.jetty.io.Connection;
import org.eclipse.jetty.io.EofException;
import org.eclipse.jetty.server.HttpConnection;
import org.eclipse.jetty.util.BufferUtil;

/**
 * A client's connection as Jetty sees it.
 *
 * <p>Jetty asks to be told of more bytes when it needs some. If it asks between two requests, with nothing read of the next one, that is the moment to
 * put the connection: the question stays open until the next lease, which answers it.
 *
 * <p>States: leased, then put (parked) and leased again, or closed; or detached, by an upgrade, and from then on an ordinary connection.
 */
final class LeasedEndPoint extends AbstractEndPoint {
  private static final long UNKNOWN = -1; // as is what is less, once more was read than the request

  private final AnteroomConnector connector;
  private final Poller poller;
  private final ClientConnection connection;
  private final InetSocketAddress local;
  private volatile InetSocketAddress remote; // the socket's, or what a lease has told
  private volatile boolean detached;

  // Guarded by this.
  private Lease lease; // null while parked and once answered
  private long requestsBefore;
  private boolean closed;

  private long ahead = UNKNOWN; // bytes of the request that was lent which are to be read; of the thread that fills

  /** Parked, until it is lent. */
  LeasedEndPoint(AnteroomConnector connector, Poller poller, ClientConnection connection) {
    super(connector.getScheduler());
    this.connector = connector;
    this.poller = poller;
    this.connection = connection;
    connection.attach(this);
    local = connection.localAddress();
    remote = connection.remoteAddress();
  }

  /** Serve what this lease brings, on this thread as far as it goes. */
  void lend(Lease next) {
    notIdle();
    if (next.peer() != null) {
      remote = address(next.peer());
    }
    if (begin(next)) {
      getFillInterest().fillable();
    } else {
      next.nack(NackReason.UNKNOWN); // Jetty has closed it meanwhile; it comes again with a descriptor
    }
  }

  /** Where a load balancer says that the client is; the socket's if it does not say that. */
  private InetSocketAddress address(String peer) {
    int colon = peer.lastIndexOf(':');
    return colon < 0 ? connection.remoteAddress()
        : new InetSocketAddress(peer.substring(0, colon).replaceAll("^\\[|\\]$", ""), Integer.parseInt(peer.substring(colon + 1)));
  }

  private synchronized boolean begin(Lease next) {
    if (!closed) {
      lease = next;
      requestsBefore = requests();
      ahead = next.requestLength() > 0 ? next.requestLength() : UNKNOWN;
    }
    return !closed;
  }

  /** The connection is no longer this host's, and has been closed. */
  void forgotten() {
    synchronized (this) {
      lease = null;
    }
    Runnable end = () -> close(new EofException("The sidecar has taken the connection back."));
    try {
      connector.getExecutor().execute(end);
    } catch (RejectedExecutionException stopping) {
      end.run();
    }
  }

  synchronized boolean isLast() {
    return lease != null && lease.last();
  }

  private synchronized long requests() {
    return getConnection() == null ? 0 : getConnection().getMessagesIn();
  }

  @Override
  protected void needsFillInterest() throws IOException {
    boolean parked;
    Lease over = null;
    synchronized (this) {
      parked = lease == null && !detached;
      if (isBetweenRequests()) {
        over = lease;
        lease = null;
      }
    }
    if (over != null) {
      if (!over.put(requests() - requestsBefore, Duration.ZERO)) {
        close();
      }
    } else if (!parked) {
      ahead = UNKNOWN;
      poller.whenReadable(connection, () -> connector.getExecutor().execute(getFillInterest()::fillable));
    }
  }

  /** Whether requests have been answered, and nothing of a next one was read. */
  private boolean isBetweenRequests() {
    return lease != null && getConnection() instanceof HttpConnection http && http.getParser().isStart() && http.isRequestBufferEmpty()
        && requests() > requestsBefore;
  }

  @Override
  protected void onIncompleteFlush() {
    try {
      poller.whenWritable(connection, () -> connector.getExecutor().execute(getWriteFlusher()::completeWrite));
    } catch (IOException why) {
      getWriteFlusher().onFail(why);
    }
  }

  @Override
  public int fill(ByteBuffer buffer) throws IOException {
    if (isInputShutdown()) {
      return -1;
    }
    if (ahead == 0 && !isOutputShutdown()) {
      return 0; // Jetty asks four times after each request; what comes next comes with another lease
    }
    int position = BufferUtil.flipToFill(buffer);
    try {
      int count = isOutputShutdown() && !detached ? -1 : connection.read(buffer);
      if (count < 0) {
        shutdownInput();
      } else if (count > 0) {
        ahead -= count;
        notIdle();
      }
      return count;
    } catch (IOException why) {
      shutdownInput();
      return -1;
    } finally {
      BufferUtil.flipToFlush(buffer, position);
    }
  }

  @Override
  public boolean flush(ByteBuffer... buffers) throws IOException {
    try {
      if (connection.write(buffers) > 0) {
        notIdle();
      }
    } catch (IOException why) {
      throw new EofException(why);
    }
    for (ByteBuffer buffer : buffers) {
      if (buffer.hasRemaining()) {
        return false;
      }
    }
    return true;
  }

  /** Go on in another protocol, in this process for good. */
  @Override
  public void upgrade(Connection next) {
    Lease over;
    synchronized (this) {
      over = lease;
      lease = null;
      detached = true;
      ahead = UNKNOWN;
    }
    if (over != null) {
      over.detach();
    }
    super.upgrade(next);
  }

  /** The response has ended the connection. The sidecar sends the FIN, for a shutdown here could not be told from a failure there. */
  @Override
  protected void doShutdownOutput() {
    if (detached) {
      connection.shutdownOutput();
    } else {
      answerByClose(CloseReason.DONE);
    }
  }

  @Override
  protected void doClose() {
    if (detached) {
      connection.shutdownOutput();
    }
    synchronized (this) {
      closed = true;
    }
    answerByClose(CloseReason.CLIENT);
    connection.close();
    connector.closed(this);
  }

  private void answerByClose(CloseReason reason) {
    Lease over;
    synchronized (this) {
      over = lease;
      lease = null;
    }
    if (over != null) {
      over.close(reason, requests() - requestsBefore);
    }
  }

  /** How long a client is idle is the sidecar's business. */
  @Override
  protected void onIdleExpired(TimeoutException timeout) {
    boolean parked;
    synchronized (this) {
      parked = lease == null && !detached;
    }
    if (!parked) {
      super.onIdleExpired(timeout);
    }
  }

  @Override
  public InetSocketAddress getLocalAddress() {
    return local;
  }

  @Override
  public InetSocketAddress getRemoteAddress() {
    return remote;
  }

  @Override
  public Object getTransport() {
    return connection;
  }
}
