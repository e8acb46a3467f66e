'use strict';
// A sidecar that does as the test says. It speaks plain frames: descriptors need the real one.

const { once } = require('node:events');
const { mkdtempSync, rmSync } = require('node:fs');
const net = require('node:net');
const { tmpdir } = require('node:os');
const path = require('node:path');

const { Type, decode, encode } = require('../lib/frame');

const WELCOME = { host: 1, pool: 'default', capacity: 1, features: [], listeners: [], keep_alive_timeout_ms: 75000, epoch: 'e' };

/** Stops with the test. */
class FakeSidecar {
  #server = net.createServer();

  constructor(t) {
    const folder = mkdtempSync(path.join(tmpdir(), 'anteroom-'));
    this.path = path.join(folder, 'handoff.sock');
    t.after(() => {
      this.stop();
      rmSync(folder, { recursive: true });
    });
  }

  async start() {
    this.#server.listen(this.path);
    await once(this.#server, 'listening');
    return this;
  }

  stop() {
    this.#server.close();
  }

  /** Waits for a host to connect. */
  async link() {
    const [socket] = await once(this.#server, 'connection');
    return new FakeLink(socket);
  }

  /** Waits for a host, and welcomes it. */
  async welcome(members = {}) {
    const link = await this.link();
    link.hello = await link.next(Type.HELLO);
    link.send({ type: Type.WELCOME, a: 1, payload: JSON.stringify({ ...WELCOME, ...members }) });
    return link;
  }
}

class FakeLink {
  #frames;
  #socket;

  constructor(socket) {
    this.#socket = socket;
    this.#frames = framesOf(socket);
    socket.on('error', () => {}); // a host that fails hangs up anyhow
  }

  /** Waits for the next frame, which must be of this type. */
  async next(type) {
    const { value, done } = await this.#frames.next();
    if (done) throw new Error('the host has hung up');
    if (value.type !== type) throw new Error(`a frame of type ${value.type}, ${type} was expected`);
    return value;
  }

  /** Waits for the host to hang up without another word. */
  async end() {
    const { value, done } = await this.#frames.next();
    if (!done) throw new Error(`a frame of type ${value.type}, the end was expected`);
  }

  send({ payload = '', ...frame }) {
    this.#socket.write(encode({ ...frame, payload: Buffer.from(payload) }));
  }

  hangUp() {
    this.#socket.destroy();
  }
}

async function* framesOf(socket) {
  let rest = Buffer.alloc(0);
  try {
    for await (const chunk of socket) {
      rest = Buffer.concat([rest, chunk]);
      for (let frame = decode(rest); frame; frame = decode(rest)) {
        rest = rest.subarray(frame.end);
        yield frame;
      }
    }
  } catch (error) {
    if (error.code !== 'ECONNRESET') throw error; // the host has hung up with something unread
  }
}

module.exports = { FakeSidecar };
