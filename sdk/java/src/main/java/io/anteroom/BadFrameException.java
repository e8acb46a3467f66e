package io.anteroom;

/** Bytes that are no frame. Where the next frame begins is unknown, so this is final for a link. */
public final class BadFrameException extends LinkException {
  private static final long serialVersionUID = 1;

  private final Frame.Code code;

  BadFrameException(Frame.Code code, String message) {
    super(message);
    this.code = code;
  }

  public Frame.Code code() {
    return code;
  }
}
