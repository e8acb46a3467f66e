'use strict';
// A lease: one client's connection, lent to this host for one request.

const { CloseReason, Flag, NackReason, Type } = require('./frame');

/**
 * A connection with a request on it. Answer it exactly once: `put`, `close`, `detach` or `nack`. The answers never throw; they return false if the
 * sidecar no longer waits for one: the lease was answered before, or taken back, or the link is gone.
 */
class Lease {
  #session;
  #handle;

  constructor(session, frame, peer) {
    this.#session = session;
    this.#handle = frame.handle;
    /** The connection's id, the same for all of its leases. */
    this.conn = frame.conn;
    this.seq = frame.seq;
    this.flags = frame.flags;
    /** Bytes of the request's head, 0 if not known. */
    this.headLength = frame.low;
    /** Bytes of the whole request, 0 if not all of it has arrived. */
    this.requestLength = frame.high;
    /** Milliseconds the request waited for this host. */
    this.waited = frame.b / 1000;
    /** The client's address if it is not the socket's, as `host:port`, else undefined. */
    this.peer = peer;
  }

  /** Whether this is the connection's first request. */
  get fresh() {
    return (this.flags & Flag.FRESH) !== 0;
  }

  /** Whether the answer must say `Connection: close`: there is no room to keep one more connection. */
  get last() {
    return (this.flags & Flag.LAST) !== 0;
  }

  /** Whether the client has sent nothing within its time: answer 408 and close. */
  get silent() {
    return (this.flags & Flag.SILENT) !== 0;
  }

  /** Whether the lease was answered or taken back, or its link is gone. */
  get over() {
    return this.#session.leases.get(this.conn) !== this;
  }

  /** The connection's handle, for `new net.Socket({ handle })`, from now on the caller's. Null for a connection that this host holds already. */
  takeHandle() {
    const handle = this.#handle;
    this.#handle = null;
    return handle;
  }

  /** The response is sent and nothing is left unread: the connection is idle for up to `keepAlive` ms (0: the pool's time). */
  put({ keepAlive = 0, requests = 1 } = {}) {
    return this.#answer(Type.PUT, Math.min(Math.round(keepAlive), MAX_MILLISECONDS), requests);
  }

  /** End the connection; the sidecar sees to it that the client gets all that was sent. (Destroying the socket alone ends nothing.) */
  close({ reason = CloseReason.DONE, requests = 1 } = {}) {
    return this.#answer(Type.CLOSE, reason, requests);
  }

  /** Keep the connection for good, as for a WebSocket: the sidecar lets go of it. */
  detach() {
    return this.#answer(Type.DETACH);
  }

  /** Not now, or not here: the sidecar leases the connection again, to another host where there is one. */
  nack(reason = NackReason.OVERLOAD) {
    return this.#answer(Type.NACK, reason);
  }

  #answer(type, a = 0, b = 0) {
    this.#handle?.close(); // nobody took it
    this.#handle = null;
    if (this.over) return false;
    this.#session.leases.delete(this.conn);
    this.#session.answer(type, this, a, b);
    return true;
  }
}

/** The longest keep-alive time the protocol takes: a week. */
const MAX_MILLISECONDS = 7 * 24 * 3600 * 1000;

module.exports = { Lease };
