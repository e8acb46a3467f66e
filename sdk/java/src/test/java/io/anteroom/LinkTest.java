package io.anteroom;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import io.anteroom.Frame.Code;
import io.anteroom.Frame.Flag;
import io.anteroom.Frame.Type;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.After;
import org.junit.Test;

/** Frames and descriptors over a socket pair. */
public class LinkTest {
  private final int[] pair = pair();
  private final Link link = new Link(pair[0]);
  private final Link sidecar = new Link(pair[1]);

  static int[] pair() {
    int[] pair = new int[2];
    Libc.socketpair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, 0, pair);
    return pair;
  }

  @After
  public void close() {
    link.close();
    sidecar.close();
  }

  @Test
  public void noPermission() {
    String message = Link.unreachable("/h", Libc.EACCES).getMessage();
    assertTrue(message, message.contains("socket /h.") && message.contains("handoff-allow-uid") && message.contains("handoff-allow-gid"));
  }

  private static Frame lease(long conn) {
    return Frame.of(Type.LEASE, Flag.FD, 1, conn, 0, 0);
  }

  private void lend(long conn) throws IOException {
    int[] client = pair();
    sidecar.send(lease(conn), client[0]);
    Libc.close(client[1]);
  }

  /** Send bytes as they are, with a descriptor that is not kept. */
  private void say(byte[] bytes, boolean descriptor) {
    Message message = new Message(bytes.length);
    message.bytes.put(bytes);
    message.prepare(0, bytes.length);
    int[] client = pair();
    message.attach(descriptor ? client[0] : -1);
    assertEquals(bytes.length, Libc.sendmsg(pair[1], message.address, 0));
    Libc.close(client[0]);
    Libc.close(client[1]);
  }

  private static byte[] part(Frame frame, int from, int to) {
    ByteBuffer bytes = ByteBuffer.allocate(frame.size());
    frame.encode(bytes);
    return java.util.Arrays.copyOfRange(bytes.array(), from, to);
  }

  private static void closeAll(List<Link.Received> received) {
    received.forEach(r -> Link.closeIfAny(r.fd()));
  }

  @Test
  public void framesBeforeADescriptorComeWithIt() throws IOException {
    sidecar.send(Frame.of(Type.FORGET, 0, 0, 7, 1, 0), -1);
    sidecar.send(Frame.of(Type.FORGET, 0, 0, 8, 1, 0), -1);
    lend(9);
    List<Link.Received> received = link.receive(true);
    assertEquals(List.of(7L, 8L, 9L), received.stream().map(r -> r.frame().conn()).toList());
    assertEquals(-1, received.get(0).fd());
    assertTrue(received.get(2).fd() >= 0);
    closeAll(received);
  }

  @Test
  public void whatIsPostedGoesTogetherAndInOrder() throws IOException {
    int[] client = pair();
    for (long conn = 1; conn <= 4; conn++) {
      boolean lease = conn == 3;
      sidecar.post(lease ? lease(conn) : Frame.of(Type.FORGET, 0, 0, conn, 1, 0), lease ? client[0] : -1);
    }
    Libc.close(client[1]);
    assertEquals("nothing goes before it is flushed", List.of(), link.receive(false));
    sidecar.flush();
    List<Link.Received> received = new ArrayList<>();
    while (received.size() < 4) {
      received.addAll(link.receive(true));
    }
    assertEquals(List.of(1L, 2L, 3L, 4L), received.stream().map(r -> r.frame().conn()).toList());
    assertEquals(List.of(false, false, true, false), received.stream().map(r -> r.fd() >= 0).toList());
    closeAll(received);
  }

  /** As the last answer before a host leaves. */
  @Test
  public void whatIsPostedGoesBeforeTheEnd() throws IOException {
    sidecar.post(Frame.of(Type.FORGET, 0, 0, 1, 1, 0), -1);
    sidecar.leave();
    sidecar.flush();
    assertEquals(1, link.receive(true).size());
    assertThrows(LinkException.class, () -> link.receive(true));
  }

  @Test
  public void aFrameInTwoHalvesMayBeMergedWithTheNextDescriptor() throws IOException {
    say(part(lease(1), 0, 10), true);
    assertEquals(List.of(), link.receive(true));
    say(part(lease(1), 10, 32), false);
    say(part(lease(2), 0, 32), true);
    List<Link.Received> received = link.receive(true);
    assertEquals(List.of(1L, 2L), received.stream().map(r -> r.frame().conn()).toList());
    assertTrue(received.get(0).fd() >= 0 && received.get(1).fd() >= 0);
    closeAll(received);
  }

  @Test
  public void receivedDescriptorsAreClosedOnExec() throws IOException {
    lend(1);
    List<Link.Received> received = link.receive(true);
    String flags = Files.readString(Path.of("/proc/self/fdinfo/" + received.get(0).fd()));
    assertTrue(flags, flags.matches("(?s).*flags:\\s*0*2\\d{6}\\D.*")); // O_CLOEXEC, octal
    closeAll(received);
  }

  @Test
  public void pingIsAnswered() throws IOException {
    sidecar.send(Frame.of(Type.PING, 0, 0, 0, 12345, 0), -1);
    assertEquals(List.of(), link.receive(true));
    Frame pong = sidecar.receive(true).get(0).frame();
    assertEquals(Type.PONG, pong.type());
    assertEquals(12345, pong.a());
  }

  @Test
  public void aLeaseWhoseDescriptorDidNotComeIsAnError() throws IOException {
    say(part(lease(1), 0, 32), false);
    assertEquals(Code.NO_DESCRIPTOR, assertThrows(BadFrameException.class, () -> link.receive(true)).code());
  }

  @Test
  public void theLongestPayloadsFollowEachOther() throws IOException {
    byte[] payload = "x".repeat(Frame.MAX_PAYLOAD).getBytes(StandardCharsets.UTF_8);
    for (int i = 0; i < 20; i++) {
      sidecar.send(new Frame(Type.DENIED, 0, i, 0, 0, 0, payload), -1);
    }
    for (int next = 0; next < 20; ) {
      for (Link.Received received : link.receive(true)) {
        assertEquals(next++, received.frame().seq());
        assertEquals(Frame.MAX_PAYLOAD, received.frame().payload().length);
      }
    }
  }

  @Test
  public void theEndOfTheStream() {
    sidecar.hangUp();
    assertThrows(LinkException.class, () -> link.receive(true));
    link.close();
    link.close();
    int[] client = pair();
    link.send(lease(1), client[0]);
    assertFalse("its descriptor is closed", Files.exists(Path.of("/proc/self/fd/" + client[0])));
    Libc.close(client[1]);
  }

  @Test
  public void whatIsWrongWithAPath() {
    String missing = assertThrows(LinkException.class, () -> Link.open("/nowhere/at.all")).getMessage();
    assertTrue(missing, missing.contains("anteroom serve --handoff /nowhere/at.all"));
    String longer = assertThrows(LinkException.class, () -> Link.open("/" + "x".repeat(200))).getMessage();
    assertTrue(longer, longer.contains("107"));
    assertFalse(missing.equals(longer));
  }
}
