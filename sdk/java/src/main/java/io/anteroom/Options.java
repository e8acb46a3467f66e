package io.anteroom;

import java.util.regex.Pattern;

/**
 * Where a host attaches, and as what.
 *
 * @param path the handoff socket; may begin with unix://, as in the sidecar's options
 * @param pool the pool to serve; empty: a private one, which ends with this host
 * @param name what operators see; need not be unique
 * @param capacity leases at once, 1 to 4096
 * @param cache idle connections that are kept, which saves making their objects for the next lease; 0: none
 */
public record Options(String path, String pool, String name, int capacity, int cache) {
  public static final String DEFAULT_PATH = "/run/anteroom/handoff.sock";
  public static final int MAX_CAPACITY = 4096;
  public static final int DEFAULT_CACHE = 1024;

  private static final Pattern WORD = Pattern.compile("[A-Za-z0-9._:-]{1,64}");

  /** Throws IllegalArgumentException for what the protocol does not allow. */
  public Options {
    path = path.startsWith("unix:///") ? path.substring("unix://".length()) : path;
    if (!pool.isEmpty()) {
      check("pool", pool);
    }
    check("name", name);
    if (capacity < 1 || capacity > MAX_CAPACITY) {
      throw new IllegalArgumentException("The capacity is 1 to " + MAX_CAPACITY + ", not " + capacity + ".");
    }
    if (cache < 0) {
      throw new IllegalArgumentException("The cache is a number of connections, not " + cache + ".");
    }
  }

  /**
   * From ANTEROOM_HANDOFF (else /run/anteroom/handoff.sock), ANTEROOM_POOL (else "default"), ANTEROOM_NAME (else "java-" and the process id) and
   * ANTEROOM_CAPACITY (else the one given).
   */
  public static Options fromEnvironment(int capacity) {
    String text = variable("ANTEROOM_CAPACITY", Integer.toString(capacity));
    if (!text.matches("[0-9]{1,4}")) {
      throw new IllegalArgumentException("ANTEROOM_CAPACITY is a number from 1 to " + MAX_CAPACITY + ", not \"" + text + "\".");
    }
    return new Options(variable("ANTEROOM_HANDOFF", DEFAULT_PATH), variable("ANTEROOM_POOL", "default"),
        variable("ANTEROOM_NAME", "java-" + ProcessHandle.current().pid()), Integer.parseInt(text), DEFAULT_CACHE);
  }

  public Options withPath(String path) {
    return new Options(path, pool, name, capacity, cache);
  }

  public Options withPool(String pool) {
    return new Options(path, pool, name, capacity, cache);
  }

  public Options withName(String name) {
    return new Options(path, pool, name, capacity, cache);
  }

  public Options withCapacity(int capacity) {
    return new Options(path, pool, name, capacity, cache);
  }

  public Options withCache(int cache) {
    return new Options(path, pool, name, capacity, cache);
  }

  private static String variable(String name, String otherwise) {
    String value = System.getenv(name);
    return value == null || value.isEmpty() ? otherwise : value;
  }

  private static void check(String what, String value) {
    if (!WORD.matcher(value).matches()) {
      throw new IllegalArgumentException("The " + what + " is 1 to 64 letters, digits, or . _ : -, not \"" + value + "\".");
    }
  }
}
