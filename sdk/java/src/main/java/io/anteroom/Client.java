package io.anteroom;

import io.anteroom.Frame.Code;
import io.anteroom.Frame.Flag;
import io.anteroom.Frame.Type;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;

/**
 * A host: a process that borrows connections from a sidecar. It attaches, and attaches again whenever the link is lost, with growing delays.
 *
 * <p>The threads that serve the leases read the link, too, so that none need be woken for another's find: one that has nothing to serve becomes the
 * reader, and goes off with the first lease that it finds. For as long as that is quick, nobody reads meanwhile. A thread of the client's own sees to
 * it that, whatever the app does, the link is not left for longer than a millisecond or two; once it has been, the reader finds itself a successor before it
 * goes. Leases may be answered from any thread.
 */
public final class Client implements AutoCloseable {
  private static final System.Logger log = System.getLogger("io.anteroom");
  private static final long STABLE = 5_000_000_000L; // nanoseconds a link must have lasted for the next attempt to come without much delay
  private static final Frame DRAIN = Frame.of(Type.DRAIN, 0, 0, 0, 0, 0);
  private static final long NACK_NO_DESCRIPTOR = 1;
  private static final long NACK_UNKNOWN = NackReason.UNKNOWN.ordinal() + 1;
  private static final int LEAST_DROPPED = 16; // kept connections that are let go of when out of descriptors: each NACK delays a request
  private static final long TICK = 1_000_000; // nanoseconds
  private static final int QUIET = 20; // ticks without a frame, after which there is nothing to watch
  private static final int HURRY = 100; // ticks for which readers find successors
  private static final String AGENT = "anteroom-java/1";

  /** What gets the leases. */
  public interface Host {
    /** A request has arrived on a connection. Called on a thread of the executor, for as long as it takes. */
    void lease(Lease lease);

    /**
     * A connection that was kept, or is leased, is no longer this host's; it has been closed. If it is leased, the lease is over. Called on the thread that
     * reads the link, so it must not wait.
     */
    default void forget(ClientConnection connection) {}
  }

  private final Options options;
  private final Host host;
  private final Executor executor;
  private final Thread thread; // attaches, and watches
  private final Backoff backoff = new Backoff();
  private final CompletableFuture<Void> left = new CompletableFuture<>();
  private String complaint = "";

  private final ReentrantLock reading = new ReentrantLock(); // who has it reads the link
  private final ConcurrentLinkedQueue<Lease> waiting = new ConcurrentLinkedQueue<>(); // for a thread
  private final AtomicBoolean coming = new AtomicBoolean(); // a thread is, which has been asked of the executor
  private final Runnable work = this::work;
  private volatile LinkException lost; // why the link has ended, for the thread
  private volatile long reads; // how often the link was read; written by who reads
  private volatile int hurry; // ticks
  private volatile boolean dozing; // the thread is: nothing comes over the link

  // All below is guarded by this; the link is also read by who reads it.
  private volatile Link link;
  private List<?> features = List.of();
  private boolean caching;
  private boolean attached;
  private final Map<Long, ClientConnection> connections = new LinkedHashMap<>(); // leased over the present link, or kept, the last one last
  private int kept;
  private int out; // leases that are to be answered, those of lost links too
  private boolean leaving;
  private boolean ending; // no lease comes any more over this link
  private boolean ended; // the thread has
  private boolean toldOfShortage;

  /** With daemon threads of its own, as many as are needed. */
  public Client(Options options, Host host) {
    this(options, host, Executors.newCachedThreadPool(work -> daemon(work, "anteroom")));
  }

  /** With these threads, of which one waits for leases. */
  public Client(Options options, Host host, Executor executor) {
    this.options = options;
    this.host = host;
    this.executor = executor;
    thread = daemon(this::run, "anteroom-link");
  }

  private static Thread daemon(Runnable work, String name) {
    Thread thread = new Thread(work, name);
    thread.setDaemon(true);
    return thread;
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
        link.send(DRAIN, -1);
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
        watch();
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
    lost = null;
    link = opened;
    opened.send(hello(), -1); // if it fails, a refusal may have come before HELLO was read
  }

  /** See to it that the link is read and all is sent, also while all threads are in the app. Throws when the link has ended. */
  private void watch() throws LinkException {
    callAnother();
    long seen = reads;
    for (int quiet = 0; lost == null; ) {
      Thread.interrupted();
      LockSupport.parkNanos(TICK);
      link.flush();
      if (reads != seen) {
        seen = reads;
        hurry = Math.max(hurry - 1, 0);
        quiet = 0;
      } else if (reading.tryLock()) { // nobody has read for a whole tick
        try {
          read(false);
        } finally {
          reading.unlock();
        }
        seen = reads;
        hurry = HURRY;
        callAnother();
      } else if (++quiet > QUIET) {
        doze(seen);
        quiet = 0;
      }
    }
    throw lost;
  }

  /** Until the reader has something. */
  private void doze(long seen) {
    hurry = 0;
    dozing = true;
    if (reads == seen && lost == null) {
      LockSupport.park();
    }
    dozing = false;
  }

  /** On a thread of the executor: serve, until others do what there is to do. */
  private void work() {
    coming.set(false);
    for (Lease lease = next(); lease != null; lease = next()) {
      serve(lease);
    }
  }

  private void serve(Lease lease) {
    try {
      host.lease(lease);
    } catch (RuntimeException | Error why) {
      log.log(System.Logger.Level.WARNING, "a lease was not served", why);
      lease.close(CloseReason.APP, 0);
    }
  }

  private Lease next() {
    Lease lease = waiting.poll();
    if (lease == null) {
      lease = lead();
    }
    if (lease != null && (!waiting.isEmpty() || hurry > 0)) {
      callAnother();
    }
    return lease;
  }

  /** Read the link until a lease comes; null if somebody else does, or there is no link. */
  private Lease lead() {
    if (!reading.tryLock()) {
      return null;
    }
    try {
      Lease lease = waiting.poll();
      while (lease == null && link != null && lost == null) {
        read(true);
        lease = waiting.poll();
      }
      return lease;
    } finally {
      reading.unlock();
    }
  }

  /** Have one more thread look for something to do, if none is about to. */
  private void callAnother() {
    if (!coming.compareAndSet(false, true)) {
      return;
    }
    try {
      executor.execute(work);
    } catch (RejectedExecutionException why) {
      coming.set(false);
      for (Lease lease = waiting.poll(); lease != null; lease = waiting.poll()) {
        lease.nack(NackReason.OVERLOAD);
      }
    }
  }

  /** With the reading lock: obey what comes, with leases put into the queue. */
  private void read(boolean wait) {
    try {
      link.flush();
      for (Link.Received received : link.receive(wait)) {
        obey(received.frame(), received.fd());
      }
      leaveIfDone();
    } catch (LinkException why) {
      lost = why;
      LockSupport.unpark(thread);
    }
    reads++;
    if (dozing) {
      LockSupport.unpark(thread);
    }
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
      case Type.LEASE -> {
        if (fd == Link.LOST) {
          refuseForWantOfADescriptor(frame);
        } else {
          lease(frame, fd);
        }
      }
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
    caching = features.contains("cache");
    attached = true;
    complaint = "";
    log.log(System.Logger.Level.INFO, "attached to the sidecar at {0}, pool {1}", options.path(), options.pool());
    if (leaving) { // said before there was a link
      link.send(DRAIN, -1);
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
        link.post(Frame.of(Type.NACK, 0, frame.seq(), frame.conn(), NACK_UNKNOWN, 0), -1);
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
    waiting.add(lease);
  }

  /** The process is out of descriptors: make room, so that the lease can come again, and refuse it for now. */
  private void refuseForWantOfADescriptor(Frame frame) {
    List<ClientConnection> dropped;
    synchronized (this) {
      dropped = oldestKept(Math.min(Math.max(kept / 4, LEAST_DROPPED), kept));
      for (ClientConnection connection : dropped) {
        connections.remove(connection.id());
        kept--;
        link.post(Frame.of(Type.DROPPED, 0, 0, connection.id(), 0, 0), -1);
      }
      link.post(Frame.of(Type.NACK, 0, frame.seq(), frame.conn(), NACK_NO_DESCRIPTOR, 0), -1);
    }
    dropped.forEach(this::drop); // before what was posted is sent, by the next read
    if (!toldOfShortage) {
      toldOfShortage = true; // the next shortage has the same cause
      log.log(System.Logger.Level.WARNING, "this process has no descriptor left for a connection; {0} idle ones that it kept were let go of. "
          + "Raise its limit of open files (ulimit -n), or keep fewer (cache).", dropped.size());
    }
  }

  private List<ClientConnection> oldestKept(int count) {
    List<ClientConnection> oldest = new ArrayList<>();
    for (Iterator<ClientConnection> all = connections.values().iterator(); oldest.size() < count; ) {
      ClientConnection connection = all.next();
      if (connection.lease == null) {
        oldest.add(connection);
      }
    }
    return oldest;
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

  /**
   * For Lease: answer it, with a descriptor that is the link's from now on. Returns whether the connection is kept; if not, it is closed, unless it was
   * detached.
   */
  boolean answer(Lease lease, Frame answer, int fd, boolean idle) {
    boolean keep = conclude(lease, answer, fd, idle);
    if (waiting.isEmpty() || hurry > 0) { // else there are more to be answered, and it goes with theirs
      lease.link.flush();
    }
    return keep;
  }

  private boolean conclude(Lease lease, Frame answer, int fd, boolean idle) {
    ClientConnection connection = lease.connection();
    synchronized (this) {
      if (lease.answered) {
        Link.closeIfAny(fd);
        return false;
      }
      lease.answered = true;
      out--;
      completeIfLeft();
      boolean keep = false;
      if (lease.link == link && !lease.takenBack) {
        keep = idle && caching && kept < options.cache();
        settle(connection, keep);
        link.post(answer, fd);
        if (idle && !keep && caching) {
          link.post(Frame.of(Type.DROPPED, 0, 0, answer.conn(), 0, 0), -1);
        }
        leaveIfDone();
      } else {
        Link.closeIfAny(fd);
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
    connections.remove(connection.id());
    if (keep) {
      connections.put(connection.id(), connection);
      kept++;
    }
  }

  private synchronized void leaveIfDone() {
    if (ending && link != null && connections.size() == kept) {
      link.leave();
    }
  }

  /** The link has ended. Returns whether this host had been welcome. */
  private boolean lose() {
    List<ClientConnection> idle = new ArrayList<>();
    boolean welcome;
    reading.lock(); // nobody else reads it any more
    try {
      if (link != null) {
        link.close();
      }
    } finally {
      reading.unlock();
    }
    synchronized (this) {
      welcome = attached;
      connections.values().stream().filter(c -> c.lease == null).forEach(idle::add); // what is leased may be finished
      connections.clear();
      link = null;
      features = List.of();
      caching = attached = ending = false;
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
}
