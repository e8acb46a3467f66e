package io.anteroom;

import com.sun.jna.Memory;

/** A struct msghdr with one vector of bytes and room for descriptors, as on 64-bit Linux. See cmsg(3). */
final class Message {
  private static final int MSGHDR = 56;
  private static final int IOV = 16;
  private static final int NAME = 0;
  private static final int VECTORS = 16;
  private static final int VECTOR_COUNT = 24;
  private static final int CONTROL = 32;
  private static final int CONTROL_LENGTH = 40;
  private static final int FLAGS = 48;
  private static final int CMSG_DATA = 16; // behind u64 length, int level, int type
  private static final int CMSG_ONE = 24; // CMSG_SPACE of one descriptor
  // The protocol allows one descriptor per message. Room for more, so that a surplus is seen and closed.
  private static final int ROOM = CMSG_DATA + 16 * Integer.BYTES;

  final Memory header = new Memory(MSGHDR);
  final Memory bytes;
  private final Memory vector = new Memory(IOV);
  private final Memory control = new Memory(ROOM);

  Message(int size) {
    bytes = new Memory(size);
    header.clear();
    header.setPointer(NAME, null);
    header.setPointer(VECTORS, vector);
    header.setLong(VECTOR_COUNT, 1);
  }

  /** The vector is these of the bytes. */
  void prepare(int offset, int length) {
    vector.setPointer(0, bytes.share(offset));
    vector.setLong(8, length);
    header.setInt(FLAGS, 0);
  }

  /** Take descriptors on receipt. */
  void makeRoom() {
    control.clear();
    header.setPointer(CONTROL, control);
    header.setLong(CONTROL_LENGTH, ROOM);
  }

  /** Send this descriptor; none if it is -1. */
  void attach(int descriptor) {
    if (descriptor < 0) {
      header.setPointer(CONTROL, null);
      header.setLong(CONTROL_LENGTH, 0);
      return;
    }
    control.setLong(0, CMSG_DATA + Integer.BYTES);
    control.setInt(8, Libc.SOL_SOCKET);
    control.setInt(12, Libc.SCM_RIGHTS);
    control.setInt(CMSG_DATA, descriptor);
    header.setPointer(CONTROL, control);
    header.setLong(CONTROL_LENGTH, CMSG_ONE);
  }

  /** The descriptors that came; the kernel puts those of one message into one control message. */
  int[] descriptors() {
    boolean some = header.getLong(CONTROL_LENGTH) >= CMSG_DATA && control.getInt(8) == Libc.SOL_SOCKET && control.getInt(12) == Libc.SCM_RIGHTS;
    return some ? control.getIntArray(CMSG_DATA, (int) (control.getLong(0) - CMSG_DATA) / Integer.BYTES) : new int[0];
  }

  /** Whether a descriptor was lost for lack of room. */
  boolean truncated() {
    return (header.getInt(FLAGS) & Libc.MSG_CTRUNC) != 0;
  }
}
