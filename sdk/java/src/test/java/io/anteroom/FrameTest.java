package io.anteroom;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import org.junit.Test;

/** The codec against the vectors that every implementation runs. */
public class FrameTest {
  static List<?> vectors(String name) throws IOException {
    Path folder = Path.of(System.getProperty("anteroom.vectors", "../../handoff/testdata/vectors"));
    String text = Files.readString(folder.resolve(name));
    return (List<?>) Json.members(("{\"vectors\":" + text + "}").getBytes(StandardCharsets.UTF_8)).get("vectors");
  }

  private static String text(Object vector, String member) {
    return (String) ((Map<?, ?>) vector).get(member);
  }

  private static int number(Object vector, String member) {
    return (int) (long) (double) ((Map<?, ?>) vector).get(member);
  }

  private static Frame frame(Object v) {
    return new Frame(number(v, "type"), number(v, "flags"), (int) (long) (double) ((Map<?, ?>) v).get("seq"), Long.parseUnsignedLong(text(v, "conn")),
        Long.parseUnsignedLong(text(v, "a")), Long.parseUnsignedLong(text(v, "b")), text(v, "payload").getBytes(StandardCharsets.UTF_8));
  }

  private static byte[] bytes(Object vector, String member) {
    return HexFormat.of().parseHex(text(vector, member));
  }

  @Test
  public void encodesAndDecodes() throws IOException {
    for (Object vector : vectors("frames.json")) {
      String name = text(vector, "name");
      Frame frame = frame(vector);
      byte[] bytes = bytes(vector, "hex");
      ByteBuffer encoded = ByteBuffer.allocate(frame.size());
      frame.encode(encoded);
      assertArrayEquals(name, bytes, encoded.array());
      // In a stream, with something before and behind.
      ByteBuffer stream = ByteBuffer.allocate(2 + 2 * bytes.length).putShort((short) 0x3f3f).put(bytes).put(bytes).position(2);
      assertEquals(name, frame, Frame.decode(stream));
      assertEquals(name, 2 + bytes.length, stream.position());
    }
  }

  @Test
  public void wantsMoreOfEveryBeginning() throws IOException {
    for (Object vector : vectors("frames.json")) {
      byte[] bytes = bytes(vector, "hex");
      for (int length : new int[] {0, 1, 31, bytes.length - 1}) {
        ByteBuffer beginning = ByteBuffer.wrap(bytes, 0, length);
        assertNull(text(vector, "name"), Frame.decode(beginning));
        assertEquals(0, beginning.position());
      }
    }
  }

  @Test
  public void incompleteAndBad() throws IOException {
    for (Object vector : vectors("incomplete_and_bad.json")) {
      ByteBuffer bytes = ByteBuffer.wrap(bytes(vector, "hex"));
      if (text(vector, "want").equals("more")) {
        assertNull(text(vector, "name"), Frame.decode(bytes));
      } else {
        BadFrameException why = assertThrows(text(vector, "name"), BadFrameException.class, () -> Frame.decode(bytes));
        assertEquals(text(vector, "name"), text(vector, "want"), why.code().name());
      }
    }
  }

  @Test
  public void doesNotEncodeAPayloadThatIsTooLong() {
    Frame frame = new Frame(1, 0, 0, 0, 0, 0, new byte[Frame.MAX_PAYLOAD + 1]);
    assertThrows(IllegalArgumentException.class, () -> frame.encode(ByteBuffer.allocate(frame.size())));
  }

  @Test
  public void namesCodes() {
    assertEquals("BAD_FRAME", Frame.Code.nameOf(1));
    assertEquals("NOT_AGREED", Frame.Code.nameOf(17));
    assertEquals("code 99", Frame.Code.nameOf(99));
    assertEquals("code 0", Frame.Code.nameOf(0));
  }
}
