package io.anteroom;

import com.sun.jna.LastErrorException;
import com.sun.jna.Memory;
import com.sun.jna.Native;
import io.anteroom.Frame.Code;
import io.anteroom.Frame.Flag;
import io.anteroom.Frame.Type;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;

/** One connection to the sidecar: frames and descriptors in both directions. It owns its socket. */
final class Link {
  /**
   * A frame and its descriptor, which is the receiver's to close: -1 without one, {@link #LOST} in a LEASE whose descriptor was lost, because this process
   * had no room for it.
   */
  record Received(Frame frame, int fd) {}

  /** A frame to be sent. */
  private record Parcel(Frame frame, int fd) {}

  private static final int READ = 65536;
  private static final int MAX_PATH = 107;
  static final int LOST = -2;

  private final int fd;
  private final Message in = new Message(READ + Frame.HEADER + Frame.MAX_PAYLOAD);
  private final Message out = new Message(READ);
  private final ArrayDeque<Integer> descriptors = new ArrayDeque<>(); // arrived, not yet claimed by a frame
  private int lost; // descriptors that there was no room for
  private int filled; // bytes of in that are no whole frame yet

  // Guarded by this.
  private final ArrayDeque<Parcel> outbox = new ArrayDeque<>();
  private boolean sending; // some thread is, what it has taken out of the box
  private int attached; // to what is being sent
  private boolean leaving;
  private boolean closed;

  /** Takes over a connected socket. */
  Link(int fd) {
    this.fd = fd;
  }

  static Link open(String path) throws LinkException {
    byte[] name = path.getBytes(StandardCharsets.UTF_8);
    if (name.length > MAX_PATH) {
      throw new LinkException("The path of the handoff socket has " + name.length + " bytes, a socket's may have " + MAX_PATH + ": " + path);
    }
    int fd = Libc.socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, 0);
    try {
      Memory address = Libc.unixAddress(name);
      Libc.connect(fd, address, (int) address.size());
      return new Link(fd);
    } catch (LastErrorException why) {
      Libc.close(fd);
      throw unreachable(path, why.getErrorCode());
    }
  }

  static LinkException unreachable(String path, int errno) {
    return new LinkException(switch (errno) {
      case Libc.ENOENT -> "There is no handoff socket at " + path + ". Start the sidecar (anteroom serve --handoff " + path
          + "), or name the right path in ANTEROOM_HANDOFF.";
      case Libc.EACCES -> "This process may not open the handoff socket " + path
          + ". Name its user in the sidecar's option handoff-allow-uid, or its group in "
          + "handoff-allow-gid. If it is named there, the mode of the socket or of a folder above it is in the way.";
      case Libc.ECONNREFUSED -> "Nobody answers at the handoff socket " + path + ". Is the sidecar running?";
      default -> "Cannot connect to the handoff socket " + path + ": " + Libc.strerror(errno);
    });
  }

  /** Have a frame sent by the next {@link #flush}. Its descriptor (-1: none) is the link's from now on. From any thread. */
  synchronized void post(Frame frame, int descriptor) {
    if (closed) {
      closeIfAny(descriptor);
    } else {
      outbox.add(new Parcel(frame, descriptor));
    }
  }

  /**
   * Send what was posted, all together; if another thread is about it, that one sends this too. From any thread; waits for a sidecar that does not
   * read. What the sidecar does not get because it has gone is nobody's loss: {@link #receive} tells of that.
   */
  void flush() {
    while (pack()) {
      unpack(transmit());
    }
  }

  void send(Frame frame, int descriptor) {
    post(frame, descriptor);
    flush();
  }

  /** Encode what can be sent at once: frames without descriptor, or one with. Returns whether it is to be sent by this thread. */
  private synchronized boolean pack() {
    if (sending || closed || outbox.isEmpty()) {
      return false;
    }
    out.bytes.clear();
    attached = -1;
    do {
      Parcel next = outbox.remove();
      next.frame.encode(out.bytes);
      attached = next.fd;
    } while (attached < 0 && !outbox.isEmpty() && outbox.peek().fd < 0 && outbox.peek().frame.size() <= out.bytes.remaining());
    sending = true;
    return true;
  }

  private boolean transmit() {
    for (int sent = 0; sent < out.bytes.position(); ) {
      out.prepare(sent, out.bytes.position() - sent);
      out.attach(sent == 0 ? attached : -1); // it goes with the first bytes
      long count = Libc.sendmsg(fd, out.address, Libc.MSG_NOSIGNAL);
      if (count < 0 && Native.getLastError() != Libc.EINTR) {
        return false;
      }
      sent += (int) Math.max(count, 0);
    }
    return true;
  }

  private synchronized void unpack(boolean sent) {
    closeIfAny(attached);
    sending = false;
    if (closed) {
      Libc.close(fd);
    } else if (!sent || leaving && outbox.isEmpty()) {
      Libc.shutdown(fd, Libc.SHUT_RDWR);
    }
  }

  /**
   * The next frames. PING is answered here and not returned. For one thread at a time.
   *
   * @param wait until there are some
   * @throws LinkException when the sidecar has hung up
   */
  List<Received> receive(boolean wait) throws LinkException {
    in.prepare(filled, READ);
    in.makeRoom();
    long count = Libc.recvmsg(fd, in.address, Libc.MSG_CMSG_CLOEXEC | (wait ? 0 : Libc.MSG_DONTWAIT));
    if (count < 0) {
      if (Libc.isLater(Native.getLastError())) {
        return List.of();
      }
      throw broken();
    }
    takeDescriptors();
    if (count == 0) {
      throw new LinkException("The sidecar hung up.");
    }
    filled += (int) count;
    return parse();
  }

  private void takeDescriptors() throws BadFrameException {
    int[] arrived = in.descriptors();
    for (int descriptor : arrived) {
      descriptors.add(descriptor);
    }
    if (arrived.length > 1) {
      throw new BadFrameException(Code.STRAY_DESCRIPTOR, "two descriptors in one message");
    }
    if (arrived.length == 0 && in.truncated()) {
      lost++;
    }
  }

  private List<Received> parse() throws LinkException {
    List<Received> frames = new ArrayList<>();
    ByteBuffer bytes = in.bytes.clear().limit(filled);
    try {
      for (Frame frame = Frame.decode(bytes); frame != null; frame = Frame.decode(bytes)) {
        sort(frame, frames);
      }
    } catch (LinkException why) {
      frames.forEach(f -> closeIfAny(f.fd));
      throw why;
    }
    filled = bytes.compact().position();
    return frames;
  }

  private void sort(Frame frame, List<Received> frames) throws LinkException {
    int descriptor = frame.has(Flag.FD) ? claim() : -1;
    if (frame.type() == Type.PING) {
      send(Frame.of(Type.PONG, 0, 0, 0, frame.a(), 0), -1);
    } else {
      frames.add(new Received(frame, descriptor == LOST && frame.type() != Type.LEASE ? -1 : descriptor));
    }
  }

  private int claim() throws BadFrameException {
    if (!descriptors.isEmpty()) {
      return descriptors.remove();
    }
    if (lost > 0) {
      lost--;
      return LOST;
    }
    throw new BadFrameException(Code.NO_DESCRIPTOR, "a frame whose descriptor did not come");
  }

  /** End the link; {@link #receive} notices. From any thread. */
  synchronized void hangUp() {
    if (!closed) {
      Libc.shutdown(fd, Libc.SHUT_RDWR);
    }
  }

  /** End it once all is sent that was posted: by {@link #flush}, or now. */
  synchronized void leave() {
    leaving = true;
    if (!sending && outbox.isEmpty()) {
      hangUp();
    }
  }

  /** For the thread that receives, when nobody does so any more. */
  synchronized void close() {
    if (closed) {
      return;
    }
    closed = true;
    descriptors.forEach(Libc::close);
    outbox.forEach(parcel -> closeIfAny(parcel.fd));
    if (sending) {
      Libc.shutdown(fd, Libc.SHUT_RDWR); // the thread that sends closes it
    } else {
      Libc.close(fd);
    }
  }

  static void closeIfAny(int fd) {
    if (fd >= 0) {
      Libc.close(fd);
    }
  }

  private static LinkException broken() {
    return new LinkException("The link to the sidecar broke: " + Libc.strerror(Native.getLastError()));
  }
}
