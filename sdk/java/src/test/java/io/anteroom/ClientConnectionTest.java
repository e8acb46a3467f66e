package io.anteroom;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedChannelException;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.After;
import org.junit.Test;

/** Reading, writing and waiting, over a socket pair. */
public class ClientConnectionTest {
  private final int[] pair = LinkTest.pair();
  private final ClientConnection ours = new ClientConnection(1, pair[0]);
  private final ClientConnection theirs = new ClientConnection(2, pair[1]);
  private final Poller poller = new Poller("test");

  @After
  public void close() {
    ours.close();
    theirs.close();
    poller.close();
  }

  private static ByteBuffer bytes(String text) {
    return ByteBuffer.wrap(text.getBytes(StandardCharsets.UTF_8));
  }

  @Test
  public void gathersAndScatters() throws IOException {
    ByteBuffer heap = bytes("__hello ").position(2);
    ByteBuffer direct = ByteBuffer.allocateDirect(10).put(bytes("world")).flip();
    assertEquals(11, ours.write(heap, direct));
    assertFalse(heap.hasRemaining() || direct.hasRemaining());
    ByteBuffer first = ByteBuffer.allocateDirect(6).position(2);
    assertEquals(4, theirs.read(first));
    assertEquals(6, first.position());
    ByteBuffer second = ByteBuffer.allocate(100).position(3);
    assertEquals(7, theirs.read(second));
    assertEquals("o world", new String(second.array(), 3, 7, StandardCharsets.UTF_8));
    assertEquals(0, theirs.read(second));
    ours.close();
    assertEquals(-1, theirs.read(second));
  }

  @Test
  public void writesUntilTheKernelIsFullAndGoesOn() throws IOException {
    byte[] data = new byte[3_000_000];
    new java.util.Random(1).nextBytes(data);
    ByteBuffer from = ByteBuffer.wrap(data);
    ByteBuffer to = ByteBuffer.allocate(data.length);
    while (from.hasRemaining()) {
      ours.write(from);
      while (theirs.read(to) > 0) {
        // until it is empty
      }
    }
    assertArrayEquals(data, to.array());
  }

  @Test
  public void aClosedConnectionIsSo() throws IOException {
    ours.close();
    ours.close();
    assertFalse(ours.isOpen());
    assertThrows(ClosedChannelException.class, () -> ours.read(ByteBuffer.allocate(1)));
    assertThrows(ClosedChannelException.class, () -> ours.write(bytes("x")));
    assertThrows(ClosedChannelException.class, () -> ours.awaitReadable(0));
    assertThrows(ClosedChannelException.class, () -> poller.whenReadable(ours, () -> {}));
    assertNull(ours.remoteAddress());
    assertThrows(IOException.class, () -> theirs.write(bytes("x"), bytes("y")));
  }

  @Test
  public void waits() throws IOException {
    assertFalse(ours.awaitReadable(10));
    assertTrue(ours.awaitWritable(1000));
    theirs.write(bytes("x"));
    assertTrue(ours.awaitReadable(1000));
  }

  @Test
  public void isToldOnceForEachTimeItAsks() throws Exception {
    AtomicInteger told = new AtomicInteger();
    CountDownLatch first = new CountDownLatch(1);
    poller.whenReadable(ours, () -> {
      told.incrementAndGet();
      first.countDown();
    });
    theirs.write(bytes("x"));
    assertTrue(first.await(10, TimeUnit.SECONDS));
    theirs.write(bytes("y"));
    CountDownLatch writable = new CountDownLatch(1);
    poller.whenWritable(ours, writable::countDown);
    assertTrue(writable.await(10, TimeUnit.SECONDS));
    CountDownLatch second = new CountDownLatch(1);
    poller.whenReadable(ours, second::countDown);
    assertTrue(second.await(10, TimeUnit.SECONDS));
    assertEquals(1, told.get());
  }

  @Test
  public void isToldOfTheEnd() throws Exception {
    CountDownLatch ended = new CountDownLatch(2);
    ByteBuffer full = ByteBuffer.allocate(1 << 20);
    while (ours.write(full) > 0) {
      full.clear();
    }
    poller.whenReadable(ours, ended::countDown);
    poller.whenWritable(ours, ended::countDown);
    theirs.close();
    assertTrue(ended.await(10, TimeUnit.SECONDS));
  }

  @Test
  public void anotherWithTheSameDescriptorIsNotTold() throws Exception {
    CountDownLatch never = new CountDownLatch(1);
    poller.whenReadable(ours, never::countDown);
    ours.close();
    int[] again = LinkTest.pair();
    try (ClientConnection reused = new ClientConnection(3, again[0]); ClientConnection other = new ClientConnection(4, again[1])) {
      CountDownLatch told = new CountDownLatch(1);
      poller.whenReadable(reused, told::countDown);
      other.write(bytes("x"));
      assertTrue(told.await(10, TimeUnit.SECONDS));
      assertEquals(1, never.getCount());
    }
  }
}
