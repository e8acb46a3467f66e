package io.anteroom;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;

/**
 * One message of the handoff protocol, without the descriptor that may come with it. handoff/PROTOCOL.md is the specification.
 *
 * @param type one of the constants of {@link Type}, or a number of a later version
 * @param seq 32 bits, without sign
 */
public record Frame(int type, int flags, int seq, long conn, long a, long b, byte[] payload) {
  public static final int VERSION = 1;
  /** "ANTR". */
  public static final long MAGIC = 0x52544e41L;
  public static final int HEADER = 32;
  public static final int MAX_PAYLOAD = 8192;

  private static final int FIRST_CRITICAL = 0x80;
  private static final byte[] NOTHING = {};

  /** What a frame means. Below 0x20 hosts speak, from there on the sidecar. */
  public static final class Type {
    public static final int HELLO = 0x01;
    public static final int PUT = 0x02;
    public static final int CLOSE = 0x03;
    public static final int DETACH = 0x04;
    public static final int NACK = 0x05;
    public static final int ADOPT = 0x06;
    public static final int LISTEN = 0x07;
    public static final int UNLISTEN = 0x08;
    public static final int FINISH = 0x09;
    public static final int CAPACITY = 0x0a;
    public static final int DROPPED = 0x0b;
    /** DRAINING, said by the host. */
    public static final int DRAIN = 0x0c;
    public static final int PONG = 0x0d;

    public static final int WELCOME = 0x21;
    public static final int REFUSE = 0x22;
    public static final int LEASE = 0x23;
    public static final int FORGET = 0x24;
    public static final int ADOPTED = 0x25;
    public static final int LISTENING = 0x26;
    public static final int UNLISTENED = 0x27;
    /** DRAINING, said by the sidecar. */
    public static final int DRAINING = 0x28;
    public static final int PING = 0x29;
    public static final int ERROR = 0x2a;
    public static final int DENIED = 0x2b;

    private Type() {}
  }

  /** The bits of a frame's flags. */
  public static final class Flag {
    public static final int FD = 0x01;
    public static final int FRESH = 0x02;
    public static final int LAST = 0x04;
    public static final int SILENT = 0x08;
    public static final int STICKY = 0x10;
    public static final int CLOSE = 0x20;

    private Flag() {}
  }

  /** Why the sidecar refuses or ends something; the number is the place in this list, from 1 on. */
  public enum Code {
    BAD_FRAME, BAD_MAGIC, BAD_VERSION, BAD_PAYLOAD, HELLO_TWICE, HELLO_LATE, TOO_LONG, NO_DESCRIPTOR, STRAY_DESCRIPTOR, BAD_DESCRIPTOR,
    NOT_YOURS, AT_LIMIT, TOO_SLOW, NOT_ALLOWED, STOPPING, OUT_OF_DESCRIPTORS, NOT_AGREED, NOT_ANSWERING;

    /** The name of a code, also of one that only a later version knows. */
    static String nameOf(long code) {
      return code >= 1 && code <= values().length ? values()[(int) code - 1].name() : "code " + code;
    }
  }

  /** A frame without payload. */
  static Frame of(int type, int flags, int seq, long conn, long a, long b) {
    return new Frame(type, flags, seq, conn, a, b, NOTHING);
  }

  /** The length on the wire, in bytes. */
  public int size() {
    return HEADER + payload.length;
  }

  /** Append the frame's bytes, {@link #size} of them. */
  public void encode(ByteBuffer to) {
    if (payload.length > MAX_PAYLOAD) {
      throw new IllegalArgumentException("a payload of " + payload.length + " bytes, " + MAX_PAYLOAD + " are allowed");
    }
    to.order(ByteOrder.LITTLE_ENDIAN);
    to.put((byte) type).put((byte) flags).putShort((short) payload.length).putInt(seq).putLong(conn).putLong(a).putLong(b).put(payload);
  }

  /**
   * Take the frame that begins at the buffer's position.
   *
   * @return null, with the position unchanged, if it is not all there
   * @throws BadFrameException as soon as the header shows that the frame cannot be taken
   */
  public static Frame decode(ByteBuffer from) throws BadFrameException {
    if (from.remaining() < HEADER) {
      return null;
    }
    from.order(ByteOrder.LITTLE_ENDIAN);
    int start = from.position();
    int type = Byte.toUnsignedInt(from.get(start));
    int length = Short.toUnsignedInt(from.getShort(start + 2));
    if (type >= FIRST_CRITICAL) {
      throw new BadFrameException(Code.BAD_FRAME, "a frame of type 0x%02x, which is unknown here and may not be ignored".formatted(type));
    }
    if (length > MAX_PAYLOAD) {
      throw new BadFrameException(Code.TOO_LONG, "a frame with a payload of " + length + " bytes, " + MAX_PAYLOAD + " are allowed");
    }
    if (from.remaining() < HEADER + length) {
      return null;
    }
    byte[] payload = length == 0 ? NOTHING : new byte[length];
    from.get(start + HEADER, payload);
    from.position(start + HEADER + length);
    return new Frame(type, Byte.toUnsignedInt(from.get(start + 1)), from.getInt(start + 4), from.getLong(start + 8), from.getLong(start + 16),
        from.getLong(start + 24), payload);
  }

  boolean has(int flag) {
    return (flags & flag) != 0;
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof Frame f && type == f.type && flags == f.flags && seq == f.seq && conn == f.conn && a == f.a && b == f.b
        && Arrays.equals(payload, f.payload);
  }

  @Override
  public int hashCode() {
    return Long.hashCode(conn) * 31 + type;
  }
}
