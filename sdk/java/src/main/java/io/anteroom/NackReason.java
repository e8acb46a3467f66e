package io.anteroom;

/** Why a host cannot take a lease; the number is the place in this list, from 1 on. */
public enum NackReason {
  NO_DESCRIPTOR,
  UNKNOWN,
  OVERLOAD
}
