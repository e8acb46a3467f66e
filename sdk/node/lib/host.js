'use strict';
// A host: a process that borrows connections from a sidecar.

const { EventEmitter } = require('node:events');

const { Backoff } = require('./backoff');
const { Type } = require('./frame');
const { chooseRoad } = require('./link');
const { MAX_CAPACITY, checkNumber, complete } = require('./options');
const { Session } = require('./session');

/** Milliseconds a link must have lasted for the next attempt, after its loss, to come without much delay. */
const STABLE = 5000;

/**
 * Attaches to a sidecar and stays attached: a lost link is made again, with growing delays, until `close`. Events:
 *
 * - `attach` (welcome): the sidecar has welcomed this host
 * - `detach` (error, retryIn): the link has ended or could not be made; the next attempt comes in `retryIn` ms, undefined: never
 * - `lease` (lease): serve this connection
 * - `forget` (conn, reason, lease): a connection is no longer this host's; destroy its socket. `lease` is set if it was leased
 * - `shortage`: a lease was refused, because this process has no descriptor left for it. Drop idle connections, and it comes again
 * - `close`: after `close`, when the link has ended
 */
class Host extends EventEmitter {
  #options;
  #open;
  #session = null;
  #backoff = new Backoff();
  #retry = null;
  #closing = null;

  constructor(options = {}) {
    super();
    this.#options = complete(options);
    this.#open = chooseRoad(this.#options.road, this.#options.bridge);
    this.#retry = setImmediate(() => this.#connect()); // when the caller has added its listeners
  }

  /** What the sidecar has granted, null while not attached. */
  get welcome() {
    return this.#session?.welcome ?? null;
  }

  /** The handoff socket. */
  get path() {
    return this.#options.path;
  }

  get capacity() {
    return this.#options.capacity;
  }

  /** Whether the sidecar has agreed to a feature. */
  has(feature) {
    return this.welcome?.features?.includes(feature) ?? false;
  }

  /** Take up to `capacity` leases at once from now on; 0 pauses this host. */
  setCapacity(capacity) {
    this.#options.capacity = checkNumber(capacity, 'capacity', 0, MAX_CAPACITY);
    if (this.welcome) this.#session.send({ type: Type.CAPACITY, a: capacity });
  }

  /** Say that the descriptor of an idle connection is no longer held here. */
  dropped(conn) {
    this.#session?.send({ type: Type.DROPPED, conn });
  }

  /**
   * Leave: no new leases come, and the promise is resolved when those that are out have been answered, or after `timeout` ms without them.
   * Never rejects. May be called more than once.
   */
  close(timeout = 30_000) {
    this.#closing ??= new Promise((resolve) => {
      const timer = setTimeout(() => this.#session?.close(), timeout);
      this.once('close', () => {
        clearTimeout(timer);
        resolve();
      });
      this.#leave();
    });
    return this.#closing;
  }

  #leave() {
    clearTimeout(this.#retry);
    clearImmediate(this.#retry);
    if (this.#session) {
      this.#session.drain();
    } else {
      process.nextTick(() => this.emit('close'));
    }
  }

  #connect() {
    const { path, name, pool, capacity, features, agent } = this.#options;
    const hello = { name, pool, capacity: Math.max(capacity, 1), features, agent };
    this.#session = new Session(this.#open, path, hello, {
      attached: (welcome) => this.#attached(welcome),
      leased: (lease) => this.emit('lease', lease),
      forgotten: (conn, reason, lease) => this.emit('forget', conn, reason, lease),
      shortage: () => this.emit('shortage'),
      draining: () => this.#session.drain(), // what it lends is finished; its successor is found by the next attempts
      ended: (error) => this.#ended(error),
    });
  }

  #attached(welcome) {
    if (this.#options.capacity === 0) this.setCapacity(0); // a HELLO cannot say that
    this.emit('attach', welcome);
  }

  #ended(error) {
    const session = this.#session;
    this.#session = null;
    if (session.welcome && session.age > STABLE) this.#backoff.reset();
    if (this.#closing) {
      this.emit('detach', error);
      this.emit('close');
      return;
    }
    const delay = this.#backoff.delay();
    this.#retry = setTimeout(() => this.#connect(), delay);
    this.emit('detach', error, delay);
  }
}

/** Attaches to a sidecar. Without a `lease` listener nothing is served. */
function attach(options) {
  return new Host(options);
}

module.exports = { Host, attach };
