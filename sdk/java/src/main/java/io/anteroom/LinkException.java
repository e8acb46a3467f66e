package io.anteroom;

import java.io.IOException;

/** There is no link to the sidecar, or it has ended. The message says what to do. */
public class LinkException extends IOException {
  private static final long serialVersionUID = 1;

  LinkException(String message) {
    super(message);
  }
}
