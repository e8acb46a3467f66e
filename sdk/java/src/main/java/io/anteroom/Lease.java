package io.anteroom;

import com.sun.jna.LastErrorException;
import io.anteroom.Frame.Flag;
import io.anteroom.Frame.Type;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;

/**
 * A connection with a request on it, lent to this host.
 *
 * <p>Answer it exactly once, from any thread: {@link #put}, {@link #finish}, {@link #close}, {@link #detach} or {@link #nack}. An answer to a
 * lease that is over, because it was answered or taken back or its link is gone, does no harm.
 */
public final class Lease {
  private static final long MAX_KEEP_ALIVE = Duration.ofDays(7).toMillis();

  private final Client client;
  private final Frame frame;
  private final ClientConnection connection;
  private final String peer;
  final Link link;
  boolean answered; // guarded by the client, as is the next
  boolean takenBack;

  Lease(Client client, Link link, Frame frame, ClientConnection connection, String peer) {
    this.client = client;
    this.link = link;
    this.frame = frame;
    this.connection = connection;
    this.peer = peer;
  }

  public ClientConnection connection() {
    return connection;
  }

  /** The client's address if it is not the socket's, as "host:port"; else null. */
  public String peer() {
    return peer;
  }

  /** Whether this is the connection's first request. */
  public boolean fresh() {
    return frame.has(Flag.FRESH);
  }

  /** Whether the answer must say "Connection: close": there is no room to keep one more connection. */
  public boolean last() {
    return frame.has(Flag.LAST);
  }

  /** Bytes of the request's head, 0 if not known. */
  public int headLength() {
    return (int) frame.a();
  }

  /** Bytes of the whole request, 0 if not all of it has arrived. */
  public int requestLength() {
    return (int) (frame.a() >>> 32);
  }

  /** How long the request waited for this host. */
  public Duration waited() {
    return Duration.ofNanos(frame.b() * 1000);
  }

  /**
   * The response is sent and nothing is left unread: the connection is idle.
   *
   * @param requests how many were served during this lease
   * @param keepAlive how long it may stay so; zero: the pool's time
   * @return whether the connection object is kept, and may come with another lease. If not, it is closed.
   */
  public boolean put(long requests, Duration keepAlive) {
    return client.answer(this, Frame.of(Type.PUT, 0, frame.seq(), frame.conn(), millis(keepAlive), requests), -1, true);
  }

  /**
   * The rest of the response is in this regular file: the sidecar sends it as the client takes it, and then puts or closes the connection. Only if
   * {@link Client#canFinish}.
   *
   * @param length in bytes, at least 1
   * @param keepAlive how long the connection may be idle once all is sent; zero: the pool's time
   * @return as {@link #put}
   * @throws IOException if the file cannot be opened; the lease is then still to be answered
   */
  public boolean finish(Path file, long offset, long length, boolean thenClose, Duration keepAlive) throws IOException {
    int fd;
    try {
      fd = Libc.open(file.toString(), Libc.O_CLOEXEC);
    } catch (LastErrorException why) {
      throw new IOException("Cannot open " + file + ": " + why.getMessage(), why);
    }
    int flags = Flag.FD | (thenClose ? Flag.CLOSE : 0);
    String payload = keepAlive.isZero() ? "" : "{\"keep_alive_timeout_ms\":" + millis(keepAlive) + "}";
    byte[] bytes = payload.getBytes(StandardCharsets.UTF_8);
    return client.answer(this, new Frame(Type.FINISH, flags, frame.seq(), frame.conn(), offset, length, bytes), fd, !thenClose);
  }

  private static long millis(Duration keepAlive) {
    return Math.min(keepAlive.toMillis(), MAX_KEEP_ALIVE);
  }

  /** End the connection. The sidecar sees to it that the client gets all that was sent. */
  public void close(CloseReason reason, long requests) {
    client.answer(this, Frame.of(Type.CLOSE, 0, frame.seq(), frame.conn(), reason.ordinal(), requests), -1, false);
  }

  /** Keep the connection for good, as for a WebSocket: the sidecar lets go of it, and closing it is the caller's business. */
  public void detach() {
    client.answer(this, Frame.of(Type.DETACH, 0, frame.seq(), frame.conn(), 0, 0), -1, false);
  }

  /** Not now, or not here: the sidecar leases the connection again, to another host where there is one. */
  public void nack(NackReason reason) {
    client.answer(this, Frame.of(Type.NACK, 0, frame.seq(), frame.conn(), reason.ordinal() + 1, 0), -1, false);
  }
}
