package io.anteroom;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.Test;

public class JsonTest {
  private static Map<?, ?> members(String text) throws BadFrameException {
    return Json.members(text.getBytes(StandardCharsets.UTF_8));
  }

  @Test
  public void reads() throws BadFrameException {
    assertEquals(Map.of(), members(" { } "));
    assertEquals(Map.of("a", 1.0, "b", true, "c", List.of(), "d", Map.of("e", List.of("f", -2.5))),
        members("{\"a\":1,\"b\" : true,\n\"c\":[],\"d\":{\"e\":[\"f\",-2.5]}}"));
    assertEquals(Arrays.asList((Object) null), members("{\"a\":[null]}").get("a"));
    assertEquals("\"\\/\n\u00e9\u20ac", members("{\"a\":\"\\\"\\\\\\/\\n\\u00e9\u20ac\"}").get("a"));
  }

  @Test
  public void refuses() {
    String deep = "[".repeat(100_000);
    for (String text : List.of("", "null", "[]", "{", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{\"a\":1}x", "{a:1}", "{\"a\":nul}", "{\"a\":\"\\u12x4\"}",
        "{\"a\":\"b", "{\"a\":[1 2]}", "{\"a\":" + deep)) {
      assertThrows(text, BadFrameException.class, () -> members(text));
    }
  }

  @Test
  public void quotesWhatItReads() throws BadFrameException {
    String odd = "a\"b\\c\nd\u20ac";
    assertEquals(odd, members("{\"a\":" + Json.quote(odd) + "}").get("a"));
  }
}
