package io.anteroom;

/** Why a host ends a connection; the number is the place in this list, from 0 on. */
public enum CloseReason {
  /** The response ended the connection. */
  DONE,
  /** The client went or sent nonsense. */
  CLIENT,
  TOO_SLOW,
  /** The app failed. */
  APP,
  OVERLOAD
}
