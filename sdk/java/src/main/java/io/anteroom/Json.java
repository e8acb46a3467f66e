package io.anteroom;

import io.anteroom.Frame.Code;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** As much JSON as payloads need: objects, lists, strings, numbers and words, read whole. */
final class Json {
  private static final int MAX_DEPTH = 32;

  private final String text;
  private int at;
  private int depth;

  private Json(String text) {
    this.text = text;
  }

  /** The members of a payload that is an object. */
  static Map<?, ?> members(byte[] payload) throws BadFrameException {
    Json json = new Json(new String(payload, StandardCharsets.UTF_8));
    Object value = json.value();
    json.skipSpace();
    if (!(value instanceof Map<?, ?> members) || json.at < json.text.length()) {
      throw json.wrong();
    }
    return members;
  }

  /** A string as JSON has it. */
  static String quote(String value) {
    StringBuilder quoted = new StringBuilder("\"");
    for (char c : value.toCharArray()) {
      quoted.append(c < ' ' || c == '"' || c == '\\' ? "\\u%04x".formatted((int) c) : c);
    }
    return quoted.append('"').toString();
  }

  private Object value() throws BadFrameException {
    if (++depth > MAX_DEPTH) {
      throw wrong();
    }
    skipSpace();
    Object value = switch (peek()) {
      case '{' -> object();
      case '[' -> list();
      case '"' -> string();
      default -> word();
    };
    depth--;
    return value;
  }

  private Map<String, Object> object() throws BadFrameException {
    Map<String, Object> members = new HashMap<>();
    for (boolean more = open('}'); more; more = goesOn('}')) {
      skipSpace();
      String name = string();
      skipSpace();
      expect(':');
      members.put(name, value());
    }
    return members;
  }

  private List<Object> list() throws BadFrameException {
    List<Object> values = new ArrayList<>();
    for (boolean more = open(']'); more; more = goesOn(']')) {
      values.add(value());
    }
    return values;
  }

  /** Step into an object or a list; whether there is something in it. */
  private boolean open(char end) throws BadFrameException {
    at++;
    skipSpace();
    if (peek() != end) {
      return true;
    }
    at++;
    return false;
  }

  private boolean goesOn(char end) throws BadFrameException {
    skipSpace();
    if (peek() == ',') {
      at++;
      return true;
    }
    expect(end);
    return false;
  }

  private String string() throws BadFrameException {
    expect('"');
    StringBuilder value = new StringBuilder();
    for (char c = next(); c != '"'; c = next()) {
      value.append(c == '\\' ? escaped() : c);
    }
    return value.toString();
  }

  private char escaped() throws BadFrameException {
    char c = next();
    return switch (c) {
      case 'b' -> '\b';
      case 'f' -> '\f';
      case 'n' -> '\n';
      case 'r' -> '\r';
      case 't' -> '\t';
      case 'u' -> (char) hex(String.valueOf(new char[] {next(), next(), next(), next()}));
      default -> c;
    };
  }

  private int hex(String digits) throws BadFrameException {
    try {
      return Integer.parseInt(digits, 16);
    } catch (NumberFormatException why) {
      throw wrong();
    }
  }

  private Object word() throws BadFrameException {
    int start = at;
    while (at < text.length() && ",]} \t\r\n".indexOf(text.charAt(at)) < 0) {
      at++;
    }
    String word = text.substring(start, at);
    switch (word) {
      case "null":
        return null;
      case "true", "false":
        return Boolean.valueOf(word);
      default:
        try {
          return Double.valueOf(word);
        } catch (NumberFormatException why) {
          throw wrong();
        }
    }
  }

  private void skipSpace() {
    while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
      at++;
    }
  }

  private char peek() throws BadFrameException {
    if (at >= text.length()) {
      throw wrong();
    }
    return text.charAt(at);
  }

  private char next() throws BadFrameException {
    char c = peek();
    at++;
    return c;
  }

  private void expect(char c) throws BadFrameException {
    if (next() != c) {
      throw wrong();
    }
  }

  private BadFrameException wrong() {
    return new BadFrameException(Code.BAD_PAYLOAD, "a payload that is no JSON object");
  }
}
