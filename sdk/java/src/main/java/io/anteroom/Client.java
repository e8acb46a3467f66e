package io.anteroom;

import io.anteroom.Frame.Code;
import io.anteroom.Frame.Flag;
import io.anteroom.Frame.Type;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;

/**
 * A host: a process that borrows connections from a sidecar. It attaches, and attaches again whenever the link is lost, with growing delays.
 *
 * <p>One thread reads the link and calls the {@link Host}. Leases may be answered from any.
 */
public final class Client implements AutoCloseable {
  private static final System.Logger log = System.getLogger("io.anteroom");
  private static final long STABLE = 5_000_000_000L; // nanoseconds a link must have lasted for the next attempt to come without much delay
  private static final long NACK_UNKNOWN = NackReason.UNKNOWN.ordinal() + 1;
  private static final String AGENT = "anteroom-java/1";

  /** What gets the leases. Called on the thread that reads the link, so it must not wait. */
  public interface Host {
    /** A request has arrived on a connection. */
    void lease(Lease lease);

    /**
     * A connection that was kept, or is leased, is no longer this host's; it has been closed. If it is leased, the lease is over.
     */
    default void forget(ClientConnection connection) {}
  }

  private final Options options;
  private final Host host;
  private final Thread thread;
  private final Backoff backoff = new Backoff();
  private final CompletableFuture<Void> left = new CompletableFuture<>();
  private String complaint = "";

  // All below is guarded by this.
  private Link link;
  private List<?> features = List.of();
  private boolean attached;
  private final Map<Long, ClientConnection> connections = new HashMap<>(); // leased over the present link, or kept
  private int kept;
  private int out; // leases that are to be answered, those of lost links too
  private boolean leaving;
  private boolean ending; // no lease comes any more over this link
  private boolean ended; // the thread has

  public Client(Options options, Host host) {
    this.options = options;
    this.host = host;
    thread = new Thread(this::run, "anteroom-link");
    thread.setDaemon(true);
  }

  /** Attach, as soon as there is a sidecar. */
  public Client start() {
    thread.start();
    return this;
  }

  /** Whether the sidecar has welcomed this host. */
  public synchronized boolean attached() {
    return attached;
  }

  /** Whether {@link Lease#finish} may be used now. */
  public synchronized boolean canFinish() {
    return features.contains("finish");
  }

  /** Take no new leases. The future completes when those that are out have been answered and the sidecar has been left. */
  public CompletableFuture<Void> drain() {
    synchronized (this) {
      leaving = true;
      if (link == null) {
        thread.interrupt();
      } else {
        sendQuietly(link, Frame.of(Type.DRAIN, 0, 0, 0, 0, 0));
      }
    }
    return left;
  }

  /** Hang up, and wait until the host has been told of all connections that were kept. Leases that are out can still be served, not put. */
  @Override
  public void close() {
    synchronized (this) {
      leaving = true;
      thread.interrupt();
      if (link != null) {
        link.hangUp();
      }
    }
    try {
      thread.join();
    } catch (InterruptedException why) {
      Thread.currentThread().interrupt();
    }
  }

  private void run() {
    while (!isLeaving()) {
      long opened = System.nanoTime();
      boolean welcome = false;
      try {
        attach(Link.open(options.path()));
        while (true) {
          for (Link.Received received : link.receive()) {
            obey(received.frame(), received.fd());
          }
          leaveIfDone();
        }
      } catch (LinkException why) {
        welcome = lose();
        complain(why.getMessage());
      }
      if (welcome && System.nanoTime() - opened >= STABLE) {
        backoff.reset();
      }
      pause(backoff.delay());
    }
    synchronized (this) {
      ended = true;
      completeIfLeft();
    }
  }

  private synchronized boolean isLeaving() {
    return leaving;
  }

  private synchronized void attach(Link opened) {
    link = opened;
    sendQuietly(opened, hello()); // if it fails, a refusal may have come before HELLO was read
  }

  private Frame hello() {
    String features = "\"address\",\"finish\"" + (options.cache() > 0 ? ",\"cache\"" : "");
    String payload = "{\"name\":%s,\"pool\":%s,\"capacity\":%d,\"features\":[%s],\"agent\":%s}".formatted(Json.quote(options.name()),
        Json.quote(options.pool()), options.capacity(), features, Json.quote(AGENT));
    return new Frame(Type.HELLO, 0, 0, 0, Frame.MAGIC | (long) Frame.VERSION << 32, 0, payload.getBytes(StandardCharsets.UTF_8));
  }

  private void obey(Frame frame, int fd) throws LinkException {
    switch (frame.type()) {
      case Type.WELCOME -> welcome(frame);
      case Type.LEASE -> lease(frame, fd);
      case Type.FORGET -> forget(frame.conn());
      case Type.DRAINING -> end(); // theirs, or the answer to ours: either way no lease comes any more
      case Type.REFUSE, Type.ERROR -> throw new LinkException("The sidecar says " + Code.nameOf(frame.a()) + ": " + text(frame));
      default -> Link.closeIfAny(fd); // a word of a later version, which may be ignored
    }
  }

  private static String text(Frame frame) {
    return new String(frame.payload(), StandardCharsets.UTF_8);
  }

  private synchronized void welcome(Frame frame) throws BadFrameException {
    features = Json.members(frame.payload()).get("features") instanceof List<?> list ? list : List.of();
    attached = true;
    complaint = "";
    log.log(System.Logger.Level.INFO, "attached to the sidecar at {0}, pool {1}", options.path(), options.pool());
    if (leaving) { // said before there was a link
      sendQuietly(link, Frame.of(Type.DRAIN, 0, 0, 0, 0, 0));
    }
  }

  private void lease(Frame frame, int fd) throws LinkException {
    Lease lease;
    ClientConnection stale = null;
    synchronized (this) {
      ClientConnection connection = connections.get(frame.conn());
      if (fd >= 0) {
        stale = connection;
        connection = new ClientConnection(frame.conn(), fd);
        connections.put(frame.conn(), connection);
        kept -= stale == null || stale.lease != null ? 0 : 1;
      } else if (connection == null || connection.lease != null) {
        link.send(Frame.of(Type.NACK, 0, frame.seq(), frame.conn(), NACK_UNKNOWN, 0));
        return;
      } else {
        kept--;
      }
      lease = new Lease(this, link, frame, connection, peer(frame));
      connection.lease = lease;
      out++;
    }
    if (stale != null) {
      drop(stale);
    }
    host.lease(lease);
  }

  private static String peer(Frame frame) throws BadFrameException {
    return frame.payload().length > 0 && Json.members(frame.payload()).get("peer") instanceof String peer ? peer : null;
  }

  private void forget(long conn) {
    ClientConnection connection;
    synchronized (this) {
      connection = connections.remove(conn);
      if (connection == null) {
        return;
      }
      if (connection.lease == null) {
        kept--;
      } else {
        connection.lease.takenBack = true;
      }
    }
    drop(connection);
  }

  private void drop(ClientConnection connection) {
    connection.close();
    host.forget(connection);
  }

  private synchronized void end() {
    ending = true;
  }

  /** For Lease: answer it. Returns whether the connection is kept; if not, it is closed, unless it was detached. */
  boolean answer(Lease lease, Frame answer, int fd, boolean idle) {
    ClientConnection connection = lease.connection();
    synchronized (this) {
      if (lease.answered) {
        return false;
      }
      lease.answered = true;
      out--;
      completeIfLeft();
      boolean keep = false;
      if (lease.link == link && !lease.takenBack) {
        keep = idle && features.contains("cache") && kept < options.cache();
        settle(connection, keep);
        sendQuietly(link, answer, fd);
        if (idle && !keep && features.contains("cache")) {
          sendQuietly(link, Frame.of(Type.DROPPED, 0, 0, answer.conn(), 0, 0));
        }
        leaveIfDone();
      }
      if (keep) {
        return true;
      }
    }
    if (answer.type() != Type.DETACH) {
      connection.close();
    }
    return false;
  }

  /** Before the answer is sent, for the connection's next lease may come at once. */
  private void settle(ClientConnection connection, boolean keep) {
    connection.lease = null;
    if (keep) {
      kept++;
    } else {
      connections.remove(connection.id());
    }
  }

  private synchronized void leaveIfDone() {
    if (ending && link != null && connections.size() == kept) {
      link.hangUp();
    }
  }

  /** The link has ended. Returns whether this host had been welcome. */
  private boolean lose() {
    List<ClientConnection> idle = new ArrayList<>();
    boolean welcome;
    synchronized (this) {
      if (link != null) {
        link.close();
      }
      welcome = attached;
      connections.values().stream().filter(c -> c.lease == null).forEach(idle::add); // what is leased may be finished
      connections.clear();
      link = null;
      features = List.of();
      attached = ending = false;
      kept = 0;
    }
    idle.forEach(this::drop);
    return welcome;
  }

  private void complain(String why) {
    if (!isLeaving() && !why.equals(complaint)) { // once for each outage, not for each attempt
      complaint = why;
      log.log(System.Logger.Level.WARNING, why);
    }
  }

  private void pause(long millis) {
    if (!isLeaving()) {
      try {
        Thread.sleep(millis);
      } catch (InterruptedException leavingNow) {
        // run looks
      }
    }
  }

  private void completeIfLeft() {
    if (ended && out == 0) {
      left.complete(null);
    }
  }

  private static void sendQuietly(Link link, Frame frame) {
    sendQuietly(link, frame, -1);
  }

  private static void sendQuietly(Link link, Frame frame, int fd) {
    try {
      link.send(frame, fd);
    } catch (LinkException why) {
      link.hangUp(); // if it has not ended by itself; the thread that reads it finds out
    }
  }
}
