package io.anteroom;

import java.util.concurrent.ThreadLocalRandom;

/** Delays that double up to a most, each shortened by up to a half, so that hosts which lost their sidecar together do not return together. */
final class Backoff {
  private static final long FIRST = 50; // milliseconds
  private static final long MOST = 2000;

  private long next = FIRST;

  /** In milliseconds. */
  long delay() {
    long now = next;
    next = Math.min(2 * now, MOST);
    return ThreadLocalRandom.current().nextLong(now / 2, now + 1);
  }

  void reset() {
    next = FIRST;
  }
}
