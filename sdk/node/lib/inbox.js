'use strict';
// Frames from a stream of bytes, each paired with the handle that came with it.

const { Flag, decode } = require('./frame');
const { AnteroomError } = require('./errors');

/**
 * One read of the socket brings at most one descriptor, because recvmsg(2) stops at the end of the message that carries one; and such a message
 * is a single frame. So a handle belongs to the last frame that *begins* in the bytes it came with, however reads cut frames and even if the
 * handle of an earlier frame was lost.
 */
class Inbox {
  #rest = Buffer.alloc(0);
  #restHandle = null; // of the frame that has begun in #rest

  /**
   * Takes what one read has brought. Returns the frames that are complete; `handle` is null in plain ones, and in one whose FD
   * flag is set if its descriptor was lost. Throws AnteroomError (PROTOCOL), after which all handles that arrived are closed.
   */
  feed(chunk, handle = null) {
    const before = this.#rest.length;
    const data = before > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    const received = [];
    try {
      const at = this.#split(data, received);
      this.#assign(data, at, before, received, handle);
      received.forEach(checkPair);
    } catch (error) {
      for (const each of new Set([handle, this.#restHandle, ...received.map((frame) => frame.handle)])) each?.close();
      this.#restHandle = null;
      throw error;
    }
    return received;
  }

  /** Closes the handle that waits for the rest of its frame. */
  close() {
    this.#restHandle?.close();
    this.#restHandle = null;
  }

  #split(data, received) {
    let at = 0;
    for (let frame = decode(data); frame !== null; frame = decode(data, at)) {
      received.push(frame);
      at = frame.end;
    }
    return at;
  }

  /** `at` is where the frames of `received` end in `data`, `before` where the bytes begin that have just arrived. */
  #assign(data, at, before, received, handle) {
    if (received.length > 0) {
      received[0].handle = this.#restHandle;
      this.#restHandle = null;
    }
    this.#rest = data.subarray(at);
    if (handle === null) return;
    const last = received.at(-1);
    if (at < data.length && at >= before) {
      this.#restHandle = handle;
    } else if (last && last.start >= before) {
      last.handle = handle;
    } else {
      throw new AnteroomError('PROTOCOL', 'The sidecar sent a descriptor without a frame.');
    }
  }
}

function checkPair({ flags, handle }) {
  if (handle && !(flags & Flag.FD)) {
    throw new AnteroomError('PROTOCOL', 'The sidecar sent a descriptor with a frame that has none.');
  }
}

module.exports = { Inbox };
