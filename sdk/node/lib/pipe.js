'use strict';
// A link to the sidecar in this process, by Node's own IPC pipe.
//
// Node receives descriptors in one place only: the pipe of a child process's IPC channel. That pipe connects to any Unix socket, and puts what
// came with a read into its property `pendingHandle`. Of what is used here, these are internal: `process.binding('pipe_wrap')`, `pendingHandle`
// and `onread` of its Pipe, and the options `handle` and `manualStart` of net.Socket. link.js falls back to bridge.js where they are missing.

const net = require('node:net');

const { AnteroomError, unreachable } = require('./errors');

/** Bytes that may wait for a sidecar that does not read. Beyond it the link is given up. */
const MAX_UNSENT = 1 << 20;

/** Node's pipe for descriptors, or null if this Node does not let us have it. */
function findPipe() {
  try {
    const { Pipe, constants } = process.binding('pipe_wrap');
    const pipe = new Pipe(constants.IPC);
    pipe.close();
    return 'onread' in pipe ? () => new Pipe(constants.IPC) : null;
  } catch {
    return null;
  }
}

/**
 * Connects to the sidecar at `path`. `receiver.data(chunk, handle)` gets what arrives. `receiver.end(error, gone)` is called once, at the end:
 * `error` is an AnteroomError, `gone` whether it was the sidecar that hung up.
 */
class PipeLink {
  #socket;
  #receiver;
  #path;
  #error = null;
  #connected = false;
  #ours = false; // the end

  constructor(makePipe, path, receiver) {
    const handle = makePipe();
    this.#path = path;
    this.#receiver = receiver;
    this.#socket = new net.Socket({ handle, manualStart: true });
    this.#pairReadsWithHandles(handle);
    this.#socket.on('error', (error) => (this.#error = error));
    this.#socket.on('close', () => receiver.end(this.#explain(), !this.#ours));
    this.#socket.on('connect', () => (this.#connected = true));
    // A sidecar that refuses this process may do so before it reads a byte, and then a write fails before the refusal is read. So reading, in
    // the next turn of the event loop, goes first.
    this.#socket.cork();
    this.#socket.on('connect', () => setImmediate(() => setImmediate(() => this.#socket.uncork())));
    this.#socket.connect(path);
  }

  /** Sends whole frames. After the end it does nothing. */
  send(data) {
    if (this.#socket.destroyed) return;
    this.#socket.write(data);
    if (this.#socket.writableLength > MAX_UNSENT) {
      this.fail(new AnteroomError('LINK_LOST', `The sidecar does not read: ${this.#socket.writableLength} bytes wait for it.`));
    }
  }

  /** Hangs up, once what was sent is in the kernel. */
  close() {
    this.#ours = true;
    this.#socket.destroySoon();
  }

  /** Hangs up at once because of `error`. */
  fail(error) {
    this.#ours = true;
    this.#socket.destroy(error);
  }

  /** A flowing stream emits 'data' within the read, so what `onread` finds belongs to the chunk that comes next. */
  #pairReadsWithHandles(handle) {
    const read = handle.onread;
    let arrived = null;
    handle.onread = function (...args) {
      arrived = handle.pendingHandle ?? null;
      handle.pendingHandle = null;
      return read.apply(this, args);
    };
    this.#socket.on('data', (chunk) => {
      const paired = arrived;
      arrived = null;
      this.#receiver.data(chunk, paired);
    });
  }

  #explain() {
    const error = this.#error;
    if (error instanceof AnteroomError) return error;
    if (!this.#connected) return unreachable(this.#path, error?.code ?? 'closed', error);
    if (error) return new AnteroomError('LINK_LOST', `The link to the sidecar broke: ${error.message}`, { cause: error });
    return new AnteroomError('LINK_LOST', 'The sidecar hung up.');
  }
}

module.exports = { PipeLink, findPipe };
