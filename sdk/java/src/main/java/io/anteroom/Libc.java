package io.anteroom;

import com.sun.jna.LastErrorException;
import com.sun.jna.Memory;
import com.sun.jna.Native;
import com.sun.jna.Platform;
import com.sun.jna.Pointer;

/**
 * The system calls that Java lacks, on 64-bit Linux. Those without LastErrorException leave errno in {@link Native#getLastError}.
 *
 * <p>Those of every request take addresses as numbers, for JNA is fastest where it need not look at objects.
 */
final class Libc {
  static final int AF_INET = 2;
  static final int AF_INET6 = 10;
  static final int AF_UNIX = 1;
  static final int SOCK_STREAM = 1;
  static final int SOCK_CLOEXEC = 0x80000;
  static final int O_CLOEXEC = 0x80000;
  static final int SOL_SOCKET = 1;
  static final int SCM_RIGHTS = 1;
  static final int SHUT_WR = 1;
  static final int SHUT_RDWR = 2;
  static final int MSG_CTRUNC = 0x8;
  static final int MSG_DONTWAIT = 0x40;
  static final int MSG_NOSIGNAL = 0x4000;
  static final int MSG_CMSG_CLOEXEC = 0x40000000;
  static final int EPOLLIN = 0x1;
  static final int EPOLLOUT = 0x4;
  static final int EPOLLONESHOT = 1 << 30;
  static final int EPOLL_CTL_ADD = 1;
  static final int EPOLL_CTL_DEL = 2;
  static final int EPOLL_CTL_MOD = 3;
  static final int POLLIN = 0x1;
  static final int POLLOUT = 0x4;

  static final int ENOENT = 2;
  static final int EINTR = 4;
  static final int EAGAIN = 11;
  static final int EACCES = 13;
  static final int ECONNREFUSED = 111;

  /** struct epoll_event is packed on x86-64, and there alone. */
  static final int EPOLL_EVENT = Platform.isIntel() ? 12 : 16;
  static final int EPOLL_DATA = EPOLL_EVENT - 8;

  static {
    if (!Platform.isLinux() || !Platform.is64Bit()) {
      throw new UnsupportedOperationException("Anteroom needs 64-bit Linux.");
    }
    Native.register(Libc.class, "c");
  }

  private Libc() {}

  static native int socket(int family, int type, int protocol) throws LastErrorException;

  static native int socketpair(int family, int type, int protocol, int[] pair) throws LastErrorException;

  static native int connect(int fd, Pointer address, int length) throws LastErrorException;

  static native long recvmsg(int fd, long message, int flags);

  static native long sendmsg(int fd, long message, int flags);

  static native long recv(int fd, long data, long length, int flags);

  static native long send(int fd, long data, long length, int flags);

  static native int open(String path, int flags) throws LastErrorException;

  static native int close(int fd);

  static native int shutdown(int fd, int how);

  static native int getpeername(int fd, Pointer address, Pointer length);

  static native int getsockname(int fd, Pointer address, Pointer length);

  static native int poll(Pointer fds, long count, int timeout);

  static native int epoll_create1(int flags) throws LastErrorException;

  static native int epoll_ctl(int epoll, int op, int fd, Pointer event);

  static native int epoll_wait(int epoll, Pointer events, int most, int timeout);

  static native String strerror(int errno);

  /** The address of a Unix socket at a path. */
  static Memory unixAddress(byte[] path) {
    Memory address = new Memory(2 + 108);
    address.clear();
    address.setShort(0, (short) AF_UNIX);
    address.write(2, path, 0, path.length);
    return address;
  }

  static boolean isLater(int errno) {
    return errno == EAGAIN || errno == EINTR;
  }
}
