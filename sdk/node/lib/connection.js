'use strict';
// A client's connection as an http.Server sees it.

const { readSync } = require('node:fs');
const net = require('node:net');

const { CloseReason } = require('./frame');
const { Framer, skipEmptyLines } = require('./framer');

/** Bytes of a buffer that many requests share. */
const ROOM = 1 << 16;

/**
 * A net.Socket that is lent to this process for a request at a time.
 *
 * It gives Node's parser one request, keeps what has come of the next ones, and gives them when the response has been sent. So at the end of
 * a response it knows that nothing is left in the parser, and stops reading: the connection is idle and can be put.
 *
 *   begin ─► leased ─► (response sent, nothing left) ─► parked ─► begin …
 *                 └─► detached: a plain socket from then on
 *
 * `keeper` hears of it: `idle(connection)` when the connection may be parked, `closed(connection)` when its descriptor is closed.
 */
class Connection extends net.Socket {
  #keeper;
  #framer = new Framer();
  #kept = null; // bytes of the next requests
  #answering = 0; // responses under way
  #failed = true; // the connection ends otherwise than by a response
  #peer = null;
  #listening = false; // libuv may read
  #readHere = 0; // bytes read without libuv
  #plain = false; // detached

  constructor(handle, conn, keeper) {
    super({ handle, allowHalfOpen: true, manualStart: true });
    this.#keeper = keeper;
    this.conn = conn;
    /** The present lease; null while parked, detached or forgotten. */
    this.lease = null;
    /** Requests answered during the present lease. */
    this.served = 0;
    this.once('close', () => keeper.closed(this));
  }

  /** There is a request to serve; `serve` then reads it. */
  begin(lease) {
    this.lease = lease;
    this.served = 0;
    this.#peer = lease.peer ? addressOf(lease.peer) : this.#peer;
    this.#framer.begin();
  }

  /**
   * Reads the request. One that has arrived is read here, without libuv, which would have to add the descriptor to its epoll for that, where it would
   * stay to wake this process for requests that are not its own. This happens in a callback of its own, as the app's errors are nobody else's.
   */
  serve() {
    if (this.lease.requestLength > 0) {
      setImmediate(this.#readWhole);
    } else {
      this.listen();
    }
  }

  /** Reads what comes from now on, and hears of a client that goes. */
  listen() {
    this.#listening = true;
    if (!this.#kept) super._read(0);
  }

  /** Read nothing until the next `begin`: what arrives is for whoever has the connection then. */
  park() {
    this.#listening = false;
    this.lease = null;
    if (this._handle.reading) {
      this._handle.reading = false; // net.Socket's own mark
      this._handle.readStop();
    }
    this.setTimeout(0);
  }

  /** Close the descriptor. This does not end the connection, which is no longer ours. */
  forget() {
    this.lease = null;
    this.destroy();
  }

  /** Be a plain socket, this process's own. Returns what has come behind the request, a Buffer. */
  detach() {
    const rest = this.#kept ?? Buffer.alloc(0);
    this.lease?.detach();
    this.lease = null;
    this.#plain = true;
    this.#kept = null;
    this.listen();
    return rest;
  }

  /** Why the connection has ended, in the protocol's words. */
  get closeReason() {
    return this.#failed ? CloseReason.CLIENT : CloseReason.DONE;
  }

  /** A request has been parsed, and this is to become its response. */
  answer(request, response) {
    this.#answering++;
    this.#failed = true;
    if (!this.#framer.ended) request.once('end', this.#settleSoon);
    response.once('finish', () => {
      this.#answering--;
      this.#failed = false;
      this.served++;
      this.#settleSoon();
    });
    // Where the request ends is not certain, or there is no room for an idle connection.
    if (this.#framer.odd || this.lease?.last) response.setHeader('Connection', 'close');
  }

  get bytesRead() {
    return super.bytesRead + this.#readHere;
  }

  get remoteAddress() {
    return this.#peer ? this.#peer.address : super.remoteAddress;
  }

  get remotePort() {
    return this.#peer ? this.#peer.port : super.remotePort;
  }

  get remoteFamily() {
    return this.#peer ? `IPv${net.isIP(this.#peer.address)}` : super.remoteFamily;
  }

  /** What net.Socket has read comes here. As with every stream, false asks it to stop reading. */
  push(chunk) {
    return chunk === null || this.#plain ? super.push(chunk) : this.#give(chunk);
  }

  _read(size) {
    if (this.#listening && !this.#kept) super._read(size);
  }

  /** The end of what is written. A shutdown would end the connection for everybody who has it; instead, the sidecar is asked to. */
  _final(callback) {
    if (this.#plain) return super._final(callback);
    this.once('finish', () => this.destroy());
    callback();
  }

  #readWhole = () => {
    if (!this.lease || this.destroyed) return;
    const { requestLength } = this.lease;
    let chunk;
    try {
      chunk = receive(this._handle.fd, requestLength);
    } catch (error) {
      return error.code === 'EAGAIN' ? this.listen() : this.destroy(error);
    }
    this.#readHere += chunk.length;
    if (chunk.length < requestLength) {
      if (chunk.length === 0 || this.#give(chunk)) this.listen();
      return;
    }
    this.#framer.end();
    if (chunk.length > requestLength) {
      this.#keep(chunk.subarray(requestLength));
      chunk = chunk.subarray(0, requestLength);
    }
    this.#pass(chunk);
  };

  /** Gives the server what belongs to its request. As `push` does it, but `push` would also ask for more. */
  #pass(chunk) {
    if (this.readableFlowing && this.readableLength === 0) {
      this.emit('data', chunk);
    } else {
      super.push(chunk);
    }
  }

  #give(chunk) {
    if (this.#framer.ended && !this.#settled) return this.#keep(chunk);
    if (this.#framer.ended) this.#framer.begin();
    const end = this.#framer.take(chunk);
    if (end < chunk.length) this.#keep(chunk.subarray(end));
    const more = super.push(chunk.subarray(0, end));
    return more && !this.#kept;
  }

  /** Only once for each request: while something is kept nothing more is read. Empty lines before a request mean nothing. */
  #keep(chunk) {
    if (skipEmptyLines(chunk) < chunk.length) this.#kept = chunk;
    return this.#kept === null;
  }

  /** Whether all that the parser got is answered. */
  get #settled() {
    return this.#framer.ended && this.#answering === 0 && this.readableLength === 0;
  }

  // Node ends what belongs to a response right after 'finish', in the same turn.
  #settleSoon = () => process.nextTick(this.#settle);

  #settle = () => {
    if (!this.lease || !this.#settled || this.destroyed || this.writableEnded) return;
    if (this.writableLength > 0) {
      this.write('', this.#settleSoon);
    } else if (this.#kept) {
      const chunk = this.#kept;
      this.#kept = null;
      if (this.#give(chunk)) this.listen();
    } else {
      this.#keeper.idle(this);
    }
  };
}

let room = Buffer.alloc(0);
let taken = 0;

/** Reads what has arrived, more than `length` bytes if there are as many: the next requests may be there. */
function receive(fd, length) {
  if (room.length - taken <= length) {
    room = Buffer.allocUnsafeSlow(Math.max(ROOM, length + 1));
    taken = 0;
  }
  const from = taken;
  taken += readSync(fd, room, from, room.length - from, null);
  return room.subarray(from, taken);
}

/** `host:port`, where host may be an IPv6 address in brackets. */
function addressOf(peer) {
  const colon = peer.lastIndexOf(':');
  return { address: peer.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(peer.slice(colon + 1)) };
}

module.exports = { Connection };
