package io.anteroom;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import java.util.List;
import org.junit.Test;

public class OptionsTest {
  private static final Options GOOD = new Options("/a", "pool", "name", 1, 0);

  @Test
  public void whatTheProtocolDoesNotAllow() {
    assertThrows(IllegalArgumentException.class, () -> GOOD.withName(""));
    for (String word : List.of("a b", "a/b", "\u00e9", "x".repeat(65), "a\n")) {
      assertThrows(IllegalArgumentException.class, () -> GOOD.withPool(word));
      assertThrows(IllegalArgumentException.class, () -> GOOD.withName(word));
    }
    for (int capacity : new int[] {0, -1, 4097}) {
      assertThrows(IllegalArgumentException.class, () -> GOOD.withCapacity(capacity));
    }
    assertThrows(IllegalArgumentException.class, () -> GOOD.withCache(-1));
  }

  @Test
  public void anAddressAsTheSidecarWritesIt() {
    assertEquals("/run/h.sock", new Options("unix:///run/h.sock", "pool", "name", 1, 0).path());
    assertEquals("/run/h.sock", GOOD.withPath("unix:///run/h.sock").path());
    for (String path : List.of("relative.sock", "unix://relative.sock", "/unix:///a.sock")) {
      assertEquals(path, GOOD.withPath(path).path());
    }
  }

  @Test
  public void whatItAllows() {
    assertEquals("", GOOD.withPool("").pool()); // a private one
    assertEquals(new Options("/b", "x".repeat(64), "a.b_c:d-1", 4096, 5),
        GOOD.withPath("/b").withPool("x".repeat(64)).withName("a.b_c:d-1").withCapacity(4096).withCache(5));
  }
}
