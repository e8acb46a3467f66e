package io.anteroom;

import com.sun.jna.Native;
import com.sun.jna.Pointer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** A struct msghdr with one vector of bytes and room for descriptors, as on 64-bit Linux. See cmsg(3). */
final class Message {
  // The header, from 0 on.
  private static final int VECTORS = 16;
  private static final int VECTOR_COUNT = 24;
  private static final int CONTROL = 32;
  private static final int CONTROL_LENGTH = 40;
  private static final int FLAGS = 48;
  // The vector behind it: an address and a length.
  private static final int VECTOR = 56;
  // The control message behind that: u64 length, int level, int type, descriptors.
  private static final int CMSG = 72;
  private static final int CMSG_DATA = 16;
  private static final int CMSG_ONE = 24; // CMSG_SPACE of one descriptor
  // The protocol allows one descriptor per message. Room for more, so that a surplus is seen and closed.
  private static final int ROOM = CMSG_DATA + 16 * Integer.BYTES;
  private static final int[] NONE = {};

  final long address; // of the struct
  final ByteBuffer bytes;
  private final ByteBuffer struct = ByteBuffer.allocateDirect(CMSG + ROOM).order(ByteOrder.nativeOrder());
  private final long bytesAddress;

  Message(int size) {
    bytes = ByteBuffer.allocateDirect(size);
    address = addressOf(struct);
    bytesAddress = addressOf(bytes);
    struct.putLong(VECTORS, address + VECTOR);
    struct.putLong(VECTOR_COUNT, 1);
  }

  static long addressOf(ByteBuffer direct) {
    return Pointer.nativeValue(Native.getDirectBufferPointer(direct));
  }

  /** The vector is these of the bytes. */
  void prepare(int offset, int length) {
    struct.putLong(VECTOR, bytesAddress + offset);
    struct.putLong(VECTOR + 8, length);
    struct.putInt(FLAGS, 0);
  }

  /** Take descriptors on receipt. */
  void makeRoom() {
    struct.putLong(CONTROL, address + CMSG);
    struct.putLong(CONTROL_LENGTH, ROOM);
  }

  /** Send this descriptor; none if it is -1. */
  void attach(int descriptor) {
    if (descriptor < 0) {
      struct.putLong(CONTROL, 0);
      struct.putLong(CONTROL_LENGTH, 0);
      return;
    }
    struct.putLong(CMSG, CMSG_DATA + Integer.BYTES);
    struct.putInt(CMSG + 8, Libc.SOL_SOCKET);
    struct.putInt(CMSG + 12, Libc.SCM_RIGHTS);
    struct.putInt(CMSG + CMSG_DATA, descriptor);
    struct.putLong(CONTROL, address + CMSG);
    struct.putLong(CONTROL_LENGTH, CMSG_ONE);
  }

  /** The descriptors that came; the kernel puts those of one message into one control message. */
  int[] descriptors() {
    boolean some = struct.getLong(CONTROL_LENGTH) >= CMSG_DATA && struct.getInt(CMSG + 8) == Libc.SOL_SOCKET
        && struct.getInt(CMSG + 12) == Libc.SCM_RIGHTS;
    if (!some) {
      return NONE;
    }
    int[] descriptors = new int[(int) (struct.getLong(CMSG) - CMSG_DATA) / Integer.BYTES];
    struct.position(CMSG + CMSG_DATA).asIntBuffer().get(descriptors);
    return descriptors;
  }

  /** Whether a descriptor was lost for lack of room. */
  boolean truncated() {
    return (struct.getInt(FLAGS) & Libc.MSG_CTRUNC) != 0;
  }
}
