package io.anteroom;

import com.sun.jna.Memory;
import com.sun.jna.Native;
import java.io.IOException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Tells, once for each time it is asked, when a connection can be read or written: an epoll and its thread.
 *
 * <p>A connection is registered only while somebody waits for it. It has left the epoll when a callback runs, and before it is closed: an epoll goes on
 * reporting a descriptor that another process has open, and cannot be told to stop once it is closed here.
 */
public final class Poller implements AutoCloseable {
  private static final int MOST = 128;
  private static final long WAKE = 0;

  private final int epoll;
  private final int[] wake = new int[2]; // a byte in one ends the thread, which reads the other
  private final ConcurrentHashMap<Long, Watch> watches = new ConcurrentHashMap<>();
  private final AtomicLong tokens = new AtomicLong(WAKE);
  private final Thread thread;

  public Poller(String name) {
    epoll = Libc.epoll_create1(Libc.O_CLOEXEC);
    Libc.socketpair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, 0, wake);
    control(Libc.EPOLL_CTL_ADD, wake[0], Libc.EPOLLIN, WAKE);
    thread = new Thread(this::run, name);
    thread.setDaemon(true);
    thread.start();
  }

  /** Have this run, on the poller's thread, when the connection can be read, or is at its end or broken. Throws if it is closed. */
  public void whenReadable(ClientConnection connection, Runnable then) throws IOException {
    synchronized (connection) {
      watchOf(connection).readable = then;
      arm(connection);
    }
  }

  /** Have this run, on the poller's thread, when the connection can be written, or is broken. Throws if it is closed. */
  public void whenWritable(ClientConnection connection, Runnable then) throws IOException {
    synchronized (connection) {
      watchOf(connection).writable = then;
      arm(connection);
    }
  }

  private Watch watchOf(ClientConnection connection) throws IOException {
    int fd = connection.open();
    Watch watch = connection.watch();
    if (watch == null) {
      watch = new Watch(connection, fd, tokens.incrementAndGet());
      watches.put(watch.token, watch);
      connection.watch(watch);
    }
    return watch;
  }

  private void arm(ClientConnection connection) throws IOException {
    Watch watch = connection.watch();
    int op = watch.added ? Libc.EPOLL_CTL_MOD : Libc.EPOLL_CTL_ADD;
    if (control(op, watch.fd, watch.events() | Libc.EPOLLONESHOT, watch.token) != 0) {
      throw new IOException("epoll_ctl: " + Libc.strerror(Native.getLastError()));
    }
    watch.added = true;
  }

  private int control(int op, int fd, int events, long token) {
    try (Memory event = new Memory(Libc.EPOLL_EVENT)) {
      event.clear();
      event.setInt(0, events);
      event.setLong(Libc.EPOLL_DATA, token);
      return Libc.epoll_ctl(epoll, op, fd, event);
    }
  }

  private void run() {
    try (Memory events = new Memory((long) MOST * Libc.EPOLL_EVENT)) {
      while (true) {
        int count = Libc.epoll_wait(epoll, events, MOST, -1);
        for (int i = 0; i < count; i++) {
          long token = events.getLong((long) i * Libc.EPOLL_EVENT + Libc.EPOLL_DATA);
          if (token == WAKE) {
            return;
          }
          Watch watch = watches.get(token); // null: it was closed after epoll_wait
          if (watch != null) {
            watch.happened(events.getInt((long) i * Libc.EPOLL_EVENT));
          }
        }
      }
    } finally {
      Libc.close(epoll);
      Libc.close(wake[0]);
    }
  }

  /** End the thread. What still waits waits in vain. */
  @Override
  public void close() {
    Libc.close(wake[1]); // which makes the other end readable
  }

  /** What somebody waits for on a connection. All of it is guarded by the connection. */
  final class Watch {
    private final ClientConnection connection;
    private final int fd;
    private final long token;
    private Runnable readable;
    private Runnable writable;
    private boolean added;

    private Watch(ClientConnection connection, int fd, long token) {
      this.connection = connection;
      this.fd = fd;
      this.token = token;
    }

    private int events() {
      return (readable == null ? 0 : Libc.EPOLLIN) | (writable == null ? 0 : Libc.EPOLLOUT);
    }

    private void happened(int events) {
      Runnable read;
      Runnable write;
      synchronized (connection) {
        if (connection.watch() != this) {
          return; // closed meanwhile
        }
        boolean broken = (events & ~(Libc.EPOLLIN | Libc.EPOLLOUT)) != 0;
        read = broken || (events & Libc.EPOLLIN) != 0 ? readable : null;
        write = broken || (events & Libc.EPOLLOUT) != 0 ? writable : null;
        readable = read == null ? readable : null;
        writable = write == null ? writable : null;
        goOn();
      }
      if (read != null) {
        read.run();
      }
      if (write != null) {
        write.run();
      }
    }

    private void goOn() {
      if (events() == 0) {
        remove();
      } else {
        control(Libc.EPOLL_CTL_MOD, fd, events() | Libc.EPOLLONESHOT, token);
      }
    }

    private void remove() {
      if (added) {
        control(Libc.EPOLL_CTL_DEL, fd, 0, token);
        added = false;
      }
    }

    /** The connection is about to be closed. */
    void end() {
      remove();
      watches.remove(token);
    }
  }
}
