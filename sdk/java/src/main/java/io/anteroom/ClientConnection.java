package io.anteroom;

import com.sun.jna.Memory;
import com.sun.jna.Native;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.UnknownHostException;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedChannelException;

/**
 * A client's connection, as long as this process holds its descriptor: through one lease, or several if it is kept between them.
 *
 * <p>Its flags are shared with the sidecar, so nothing here changes them, and every call is one that does not wait. Closing it ends nothing, unless
 * it was detached: to end a connection, answer its lease with {@link Lease#close}. All methods may be called from any thread, also while another
 * thread closes it.
 */
public final class ClientConnection implements AutoCloseable {
  private static final ThreadLocal<Scratch> scratch = ThreadLocal.withInitial(Scratch::new);

  private final long id;
  private int fd; // -1 once closed; guarded by this, so that its number is no other file's while it is used
  private Poller.Watch watch; // the same
  private volatile Object attachment;
  Lease lease; // guarded by the client; null while it is idle

  /** Takes over a connected stream socket. */
  ClientConnection(long id, int fd) {
    this.id = id;
    this.fd = fd;
  }

  /** The connection's number, the same for all of its leases. */
  public long id() {
    return id;
  }

  /** For the host's own use. */
  public Object attachment() {
    return attachment;
  }

  public void attach(Object attachment) {
    this.attachment = attachment;
  }

  /** A thread's bytes on their way to or from the kernel: copying is cheaper than asking each buffer where it is. */
  private static final class Scratch {
    private final ByteBuffer bytes = ByteBuffer.allocateDirect(65536);
    private final long address = Message.addressOf(bytes);
  }

  /** Read what is there into the buffer: how many bytes, 0 if there are none now, -1 at the end. */
  public int read(ByteBuffer to) throws IOException {
    if (!to.hasRemaining()) {
      return 0;
    }
    Scratch from = scratch.get();
    int count = (int) receive(from.address, Math.min(from.bytes.capacity(), to.remaining()));
    if (count > 0) {
      to.put(from.bytes.clear().limit(count));
    }
    return count;
  }

  private synchronized long receive(long to, int most) throws IOException {
    long count = Libc.recv(open(), to, most, Libc.MSG_DONTWAIT);
    return count > 0 ? count : count == 0 ? -1 : later("read");
  }

  /** Write what the kernel takes now of the buffers, in order: how many bytes. */
  public long write(ByteBuffer... from) throws IOException {
    long total = 0;
    Scratch to = scratch.get();
    while (true) {
      gather(from, to.bytes.clear());
      int length = to.bytes.position();
      int count = length == 0 ? 0 : (int) send(to.address, length);
      advance(from, count);
      total += count;
      if (count == 0 || count < length) {
        return total;
      }
    }
  }

  private synchronized long send(long from, int length) throws IOException {
    long count = Libc.send(open(), from, length, Libc.MSG_DONTWAIT | Libc.MSG_NOSIGNAL);
    return count >= 0 ? count : later("write");
  }

  /** A copy of the beginning, as much as there is room: one packet for a head and its body. */
  private static void gather(ByteBuffer[] from, ByteBuffer to) {
    for (ByteBuffer buffer : from) {
      int length = Math.min(buffer.remaining(), to.remaining());
      to.put(buffer.duplicate().limit(buffer.position() + length));
    }
  }

  private static void advance(ByteBuffer[] buffers, int count) {
    for (ByteBuffer buffer : buffers) {
      int step = Math.min(count, buffer.remaining());
      buffer.position(buffer.position() + step);
      count -= step;
    }
  }

  private static long later(String call) throws IOException {
    int errno = Native.getLastError();
    if (Libc.isLater(errno)) {
      return 0;
    }
    throw new IOException("Cannot " + call + ": " + Libc.strerror(errno));
  }

  /** Wait until there is something to read, or the end; false if that takes longer than so many milliseconds. */
  public boolean awaitReadable(int millis) throws IOException {
    return await(Libc.POLLIN, millis);
  }

  /** Wait until something can be written; false if that takes longer than so many milliseconds. */
  public boolean awaitWritable(int millis) throws IOException {
    return await(Libc.POLLOUT, millis);
  }

  private boolean await(int events, int millis) throws IOException {
    try (Memory pollfd = new Memory(8)) {
      synchronized (this) {
        pollfd.setInt(0, open());
      }
      pollfd.setShort(4, (short) events);
      pollfd.setShort(6, (short) 0);
      // Not locked, for it may take long. If the connection is closed meanwhile, whatever this says of its number, the next call fails.
      return Libc.poll(pollfd, 1, millis) != 0;
    }
  }

  /** The client's address, null for a Unix socket. */
  public synchronized InetSocketAddress remoteAddress() {
    return fd < 0 ? null : address(Libc::getpeername);
  }

  /** The address that the client has connected to, null for a Unix socket. */
  public synchronized InetSocketAddress localAddress() {
    return fd < 0 ? null : address(Libc::getsockname);
  }

  private interface NameCall {
    int get(int fd, com.sun.jna.Pointer address, com.sun.jna.Pointer length);
  }

  private InetSocketAddress address(NameCall call) {
    try (Memory address = new Memory(128); Memory length = new Memory(4)) {
      length.setInt(0, (int) address.size());
      if (call.get(fd, address, length) != 0) {
        return null;
      }
      int port = (address.getByte(2) & 0xff) << 8 | address.getByte(3) & 0xff;
      return switch (address.getShort(0)) {
        case Libc.AF_INET -> new InetSocketAddress(InetAddress.getByAddress(address.getByteArray(4, 4)), port);
        case Libc.AF_INET6 -> new InetSocketAddress(InetAddress.getByAddress(address.getByteArray(8, 16)), port);
        default -> null;
      };
    } catch (UnknownHostException impossible) { // these lengths are those of addresses
      throw new AssertionError(impossible);
    }
  }

  /** Say that nothing more is sent. Only for a connection that was detached: it ends it for everybody who has it. */
  public synchronized void shutdownOutput() {
    if (fd >= 0) {
      Libc.shutdown(fd, Libc.SHUT_WR);
    }
  }

  public synchronized boolean isOpen() {
    return fd >= 0;
  }

  /** Close the descriptor. May be called more than once. */
  @Override
  public synchronized void close() {
    if (fd >= 0) {
      if (watch != null) {
        watch.end();
        watch = null;
      }
      Libc.close(fd);
      fd = -1;
    }
  }

  /** The descriptor, with this locked. */
  int open() throws ClosedChannelException {
    assert Thread.holdsLock(this);
    if (fd < 0) {
      throw new ClosedChannelException();
    }
    return fd;
  }

  /** What a poller has noted of this connection, with this locked. */
  Poller.Watch watch() {
    assert Thread.holdsLock(this);
    return watch;
  }

  void watch(Poller.Watch watch) {
    assert Thread.holdsLock(this);
    this.watch = watch;
  }
}
