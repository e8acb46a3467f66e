'use strict';
// An http.Server behind the sidecar.

const cluster = require('node:cluster');
const diagnostics = require('node:diagnostics_channel');
const { once } = require('node:events');
const http = require('node:http');
const net = require('node:net');

const { Connection } = require('./connection');
const { NackReason } = require('./frame');
const { Host } = require('./host');
const { COMMON, SERVE_OPTIONS, checkKnown, checkNumber } = require('./options');

/** Milliseconds after which a response takes long, or at most twice as many. From then on its client is listened to, as it may go. */
const LONG = 50;

/** The least idle connections that are dropped at once when this process is out of descriptors: each lease that is refused delays a request. */
const LEAST_DROPPED = 16;

const TIMED_OUT = 'HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n';

diagnostics.subscribe('http.server.request.start', ({ request, response, socket }) => {
  if (socket instanceof Connection) socket.answer(request, response);
});

/** Gives an http.Server the connections that are leased to a host, and puts them back when they are idle. */
class Service {
  static #open = new Set(); // of this process

  #host;
  #server;
  #connections = new Map(); // all that this process has a descriptor of, by their ids
  #parked = new Set(); // the idle ones among them, the one that was used longest ago first
  #busy = new Set(); // those with a request, in the order in which they got it, also if the sidecar that lent them has gone
  #ticks = 0;
  #ticking = null; // the timer, while there are any
  #cache;
  #keepAlive;
  #drainTimeout;
  #log;
  #said = '';
  #short = false; // of descriptors, and that was said
  #address = null; // the first of the pool's listeners
  #closing = null;
  #rest = () => {}; // called when no connection is busy
  #giveBack;

  constructor(server, options) {
    checkKnown(options, SERVE_OPTIONS);
    this.#server = server;
    this.#cache = checkNumber(options.cache ?? 1024, 'cache', 0, 1 << 20);
    this.#keepAlive = checkNumber(options.keepAliveTimeout ?? 0, 'keepAliveTimeout', 0, 2 ** 31);
    this.#drainTimeout = checkNumber(options.drainTimeout ?? 30_000, 'drainTimeout', 0, 2 ** 31 - 1);
    this.#log = options.log ?? ((text) => process.stderr.write(`anteroom: ${text}\n`));
    this.#host = new Host({ ...common(options), features: this.#cache > 0 ? ['address', 'cache'] : ['address'] });
    this.#listen();
    this.#takeOver();
    this.#leaveOn(options.signals ?? ['SIGTERM', 'SIGINT']);
    Service.#open.add(this);
  }

  get host() {
    return this.#host;
  }

  get server() {
    return this.#server;
  }

  /**
   * Leave: what has been lent is answered and put back, for at most `drainTimeout` ms; then the server emits 'close' and the promise is resolved.
   * Never rejects. May be called more than once.
   */
  close() {
    this.#closing ??= this.#drain();
    return this.#closing;
  }

  #listen() {
    this.#host.on('lease', (lease) => this.#serve(lease));
    this.#host.on('forget', (conn) => this.#discard(this.#connections.get(conn)));
    this.#host.on('shortage', () => this.#makeRoom());
    this.#host.on('attach', ({ pool, listeners, keep_alive_timeout_ms: ofPool }) => {
      this.#address = addressOf(listeners?.[0] ?? this.#host.path);
      // What clients are told (Keep-Alive: timeout=…), in whole seconds. Node's own timer for it ends with park.
      const told = this.#keepAlive > 0 ? this.#keepAlive - 1000 : ofPool;
      this.#server.keepAliveTimeout = told >= 1000 ? told : 0;
      if (this.#said) this.#say(`Attached to the pool ${pool}.`);
    });
    this.#host.once('attach', () => this.#server.emit('listening')); // which starts the server's own timeouts, too
    this.#host.on('detach', (error, retryIn) => {
      this.#letGo();
      if (retryIn !== undefined) this.#say(`${error.message} Trying again.`);
    });
  }

  /** Says what has changed, not every attempt. */
  #say(text) {
    if (text !== this.#said) this.#log(text);
    this.#said = text;
  }

  /** There is no descriptor left for what is lent: drops a quarter of the idle connections, those that were used longest ago. */
  #makeRoom() {
    const dropped = [...this.#parked].slice(0, Math.max(this.#parked.size >> 2, LEAST_DROPPED));
    dropped.forEach((connection) => this.#drop(connection));
    if (this.#short) return;
    this.#short = true;
    this.#log(
      `This process has no descriptor left for a connection; ${dropped.length} idle ones that it kept were dropped. ` +
        `Raise its limit of open files (ulimit -n), or keep fewer (the option cache).`,
    );
  }

  #drop(connection) {
    this.#discard(connection);
    this.#host.dropped(connection.conn);
  }

  /** The sidecar that lent these is gone: what is under way is answered, and then nobody waits for it. The next one may use the same ids. */
  #letGo() {
    this.#connections.clear();
    this.#parked.forEach((connection) => connection.forget());
    this.#parked.clear();
  }

  /** Makes the server one that listens here. */
  #takeOver() {
    const server = this.#server;
    const { address, close, emit } = server;
    server.address = () => (this.#closing ? null : this.#address);
    Object.defineProperty(server, 'listening', { configurable: true, get: () => !this.#closing });
    server.close = (callback) => {
      if (callback) server.once('close', () => callback());
      void this.close();
      return server;
    };
    // Upgrades are heard of here and not by a listener, which would tell Node that the app upgrades.
    server.emit = (event, ...args) => {
      if (event === 'upgrade' || event === 'connect') this.#detach(args);
      return emit.call(server, event, ...args);
    };
    this.#giveBack = () => {
      delete server.listening;
      Object.assign(server, { address, close, emit });
    };
  }

  /** `args` is request, socket and head: what has come behind the request. */
  #detach(args) {
    const [, connection, head] = args;
    if (!(connection instanceof Connection) || !connection.lease) return;
    args[2] = Buffer.concat([head, connection.detach()]);
    this.#connections.delete(connection.conn);
    this.#release(connection);
  }

  #serve(lease) {
    const handle = lease.takeHandle();
    const connection = this.#connections.get(lease.conn);
    if (handle) {
      this.#discard(connection);
      this.#connect(lease, handle);
    } else if (connection && !connection.destroyed) {
      this.#parked.delete(connection);
      connection.setTimeout(this.#server.timeout);
      this.#begin(connection, lease);
      connection.serve();
    } else {
      lease.nack(NackReason.UNKNOWN);
    }
  }

  #connect(lease, handle) {
    const connection = new Connection(handle, lease.conn, this.#keeper);
    this.#connections.set(lease.conn, connection);
    this.#begin(connection, lease);
    if (lease.silent) {
      connection.on('error', () => {}); // the client may have gone
      connection.end(TIMED_OUT, () => connection.destroy());
      return;
    }
    this.#server.emit('connection', connection);
    // A listener for 'data' makes Node's parser read from the stream, not from the handle below it.
    const nobody = () => {};
    connection.on('data', nobody);
    connection.off('data', nobody);
    connection.serve();
  }

  #begin(connection, lease) {
    this.#busy.add(connection);
    this.#ticking ??= setInterval(() => this.#tick(), LONG);
    connection.began = this.#ticks;
    connection.begin(lease);
  }

  /** Listens to the clients of all that were busy at the last tick. */
  #tick() {
    for (const connection of this.#busy) {
      if (connection.began === this.#ticks) break;
      if (!connection.lease?.silent) connection.listen();
    }
    this.#ticks++;
    if (this.#busy.size > 0) return;
    clearInterval(this.#ticking);
    this.#ticking = null;
  }

  #keeper = {
    idle: (connection) => {
      const { lease, served } = connection;
      connection.park();
      this.#parked.add(connection);
      const put = lease.put({ keepAlive: this.#keepAlive, requests: served });
      if (!put || !this.#host.has('cache')) {
        this.#discard(connection);
      } else if (this.#parked.size > this.#cache) {
        const [oldest] = this.#parked;
        this.#drop(oldest);
      }
      this.#release(connection);
    },

    closed: (connection) => {
      const { conn, lease } = connection;
      if (this.#connections.get(conn) === connection) this.#connections.delete(conn);
      if (this.#parked.delete(connection)) this.#host.dropped(conn);
      lease?.close({ reason: connection.closeReason, requests: connection.served });
      this.#release(connection);
    },
  };

  /** Closes the descriptor of a connection that lives on elsewhere. */
  #discard(connection) {
    if (!connection) return;
    this.#parked.delete(connection);
    if (this.#connections.get(connection.conn) === connection) this.#connections.delete(connection.conn);
    connection.forget();
  }

  #release(connection) {
    if (this.#busy.delete(connection) && this.#busy.size === 0) this.#rest();
  }

  async #drain() {
    const busy = new Promise((resolve) => {
      this.#rest = resolve;
      if (this.#busy.size === 0) resolve();
    });
    const timer = setTimeout(() => this.#busy.forEach((connection) => connection.destroy()), this.#drainTimeout);
    await this.#host.close(this.#drainTimeout);
    await busy; // without a sidecar nobody has waited for them yet
    clearTimeout(timer);
    this.#giveBack();
    const closed = once(this.#server, 'close');
    this.#server.close();
    await closed;
    Service.#open.delete(this);
  }

  #leaveOn(signals) {
    for (const signal of signals) {
      const leave = async () => {
        await this.close();
        if (Service.#open.size === 0 && process.listenerCount(signal) === 0) process.exit();
      };
      process.once(signal, leave); // a second one ends the process at once, as ever
    }
    if (cluster.isWorker) process.once('disconnect', () => this.close());
  }
}

/** Those of `options` that are the host's. */
function common(options) {
  return Object.fromEntries(COMMON.filter((key) => key in options).map((key) => [key, options[key]]));
}

/** A listener as `server.address()` has it: a path for a Unix socket, an object for TCP. */
function addressOf(listener) {
  const [, host, port] = /^tcp:\/\/(.*):(\d+)$/.exec(listener) ?? [];
  if (port === undefined) return listener.replace(/^unix:(\/\/)?/, '');
  const address = host.replace(/^\[|\]$/g, '');
  return { address, family: `IPv${net.isIP(address.replace(/%.*/, ''))}`, port: Number(port) };
}

/**
 * Serves the requests that the sidecar lends to this process with an http.Server, or a function such as an Express app, from which one is made.
 * Throws TypeError for any other server: TLS and HTTP/2 keep state in the process, so their connections cannot be lent.
 */
function serve(server, options = {}) {
  const made = typeof server === 'function' ? http.createServer(server) : server;
  if (!(made instanceof http.Server)) {
    throw new TypeError('anteroom.serve takes an http.Server, or a function (request, response) to make one of. For TLS, end it before the sidecar.');
  }
  return new Service(made, options);
}

module.exports = { serve };
