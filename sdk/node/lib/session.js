'use strict';
// One attachment to a sidecar, from HELLO to the end of its link.

const { AnteroomError, ended, refused } = require('./errors');
const { Flag, ForgetReason, HEADER_SIZE, MAGIC, NackReason, Type, VERSION, codeName, encode, write } = require('./frame');
const { Inbox } = require('./inbox');
const { Lease } = require('./lease');

/** Milliseconds within which the sidecar must answer HELLO; then the link is given up. */
const WELCOME_TIMEOUT = 5000;

/** Frames that are sent at once. */
const BATCH = 8;

const NOTHING = Buffer.alloc(0);

/**
 * A link, what is leased over it, and what its frames mean. `observer` hears of it: `attached(welcome)`, `leased(lease)`, `forgotten(conn, reason,
 * lease)`, `shortage()`, `draining()`, and at last `ended(error)`. If the sidecar was not the one to hang up, it has taken back what was leased, and all of
 * that is forgotten first: a response that goes on would meet one of another host.
 */
class Session {
  #link;
  #inbox = new Inbox();
  #observer;
  #welcomeTimer;
  #unsent = NOTHING; // encoded frames, the first `#used` bytes of it
  #used = 0;
  #sending = false;
  #began = performance.now();

  constructor(open, path, hello, observer) {
    this.#observer = observer;
    this.leases = new Map(); // those that are out, by connection
    this.welcome = null;
    this.draining = false;
    this.over = false;
    this.#link = open(path, { data: (chunk, handle) => this.#receive(chunk, handle), end: (error, gone) => this.#end(error, gone) });
    this.#welcomeTimer = setTimeout(() => this.#link.fail(noWelcome(path)), WELCOME_TIMEOUT);
    this.send({ type: Type.HELLO, a: BigInt(MAGIC) | (BigInt(VERSION) << 32n), payload: Buffer.from(JSON.stringify(hello)) });
  }

  /** Milliseconds since the link was begun. */
  get age() {
    return performance.now() - this.#began;
  }

  /** Sends a frame, together with others of this turn of the event loop. */
  send(frame) {
    if (this.over) return;
    const data = encode(frame);
    const at = this.#makeRoom(data.length);
    this.#unsent.set(data, at);
    this.#used = at + data.length;
  }

  /** The same for a lease's answer. */
  answer(type, { seq, conn }, a, b) {
    if (this.over) return;
    const at = this.#makeRoom(HEADER_SIZE);
    write(this.#unsent, at, type, 0, 0, seq, conn, a, b);
    this.#used = at + HEADER_SIZE;
  }

  /** Say that this host leaves. The sidecar hangs up when the last lease is answered. */
  drain() {
    if (this.draining) return;
    this.draining = true;
    if (this.welcome) {
      this.send({ type: Type.DRAIN });
    } else {
      this.#link.close(); // nothing is held, and who knows when the sidecar reads
    }
  }

  /** Hang up. The sidecar takes back the leases that are out. */
  close() {
    this.#flush();
    this.#link.close();
  }

  /** Where the next frame goes. A few of them are sent before the turn ends, so that the sidecar can go on with those. */
  #makeRoom(size) {
    if (this.#used + size > this.#unsent.length) {
      this.#flush();
      this.#unsent = Buffer.allocUnsafe(Math.max(size, BATCH * HEADER_SIZE));
    }
    this.#sendSoon();
    return this.#used;
  }

  #sendSoon() {
    if (this.#sending) return;
    this.#sending = true;
    setImmediate(this.#sendAll);
  }

  #sendAll = () => {
    this.#sending = false;
    this.#flush();
  };

  #flush() {
    if (this.#used > 0 && !this.over) this.#link.send(this.#unsent.subarray(0, this.#used));
    this.#unsent = NOTHING;
    this.#used = 0;
  }

  #receive(chunk, handle) {
    let received;
    try {
      received = this.#inbox.feed(chunk, handle);
      for (const frame of received) {
        if (this.over) break;
        this.#handle(frame);
      }
      this.#sendSoon(); // what is answered in this turn
    } catch (error) {
      if (!(error instanceof AnteroomError)) throw error; // a listener's
      this.#link.fail(error);
    } finally {
      received?.forEach((frame) => frame.handle?.close()); // nobody took it
    }
  }

  #handle(frame) {
    switch (frame.type) {
      case Type.LEASE:
        return this.#onLease(frame);
      case Type.FORGET:
        return this.#onForget(frame);
      case Type.PING:
        return this.send({ type: Type.PONG, a: frame.a });
      case Type.WELCOME:
        return this.#onWelcome(frame);
      case Type.DRAINING:
        return this.draining || this.#observer.draining(); // else it is the answer to ours
      case Type.REFUSE:
        throw refused(codeName(frame.low), frame.payload.toString());
      case Type.ERROR:
        throw ended(codeName(frame.low), frame.payload.toString());
      // All others are words of a later version, which may be ignored.
    }
  }

  #onWelcome(frame) {
    clearTimeout(this.#welcomeTimer);
    this.welcome = parse(frame);
    this.#observer.attached(this.welcome);
  }

  #onLease(frame) {
    if (frame.flags & Flag.FD && !frame.handle) {
      this.#observer.shortage(); // what is dropped now is told first
      return this.send({ type: Type.NACK, seq: frame.seq, conn: frame.conn, a: NackReason.NO_DESCRIPTOR });
    }
    const { peer } = frame.payload.length > 0 ? parse(frame) : {};
    const lease = new Lease(this, frame, peer);
    frame.handle = null;
    this.leases.set(frame.conn, lease);
    this.#observer.leased(lease);
  }

  #onForget(frame) {
    const lease = this.leases.get(frame.conn);
    this.leases.delete(frame.conn);
    this.#observer.forgotten(frame.conn, frame.low, lease);
  }

  #end(error, gone) {
    clearTimeout(this.#welcomeTimer);
    this.over = true;
    const leases = [...this.leases];
    this.leases.clear();
    if (!gone) leases.forEach(([conn, lease]) => this.#observer.forgotten(conn, ForgetReason.MOVED, lease));
    this.#inbox.close();
    this.#observer.ended(error);
  }
}

function parse(frame) {
  try {
    return Object(JSON.parse(frame.payload));
  } catch (cause) {
    throw new AnteroomError('PROTOCOL', `The sidecar sent JSON that does not parse: ${cause.message}.`, { cause });
  }
}

function noWelcome(path) {
  return new AnteroomError('LINK_LOST', `The sidecar at ${path} did not answer HELLO within ${WELCOME_TIMEOUT / 1000} s.`);
}

module.exports = { Session };
