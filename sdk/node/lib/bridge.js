'use strict';
// A link to the sidecar through a helper process, `anteroom node-bridge`.
//
// The helper is our child with an IPC channel, on which it speaks as a Node parent would: descriptors arrive with messages, as Node documents for
// 'message'. One helper is one link. It lives as long as the channel: it ends when this process does, however that ends.

const { spawn } = require('node:child_process');

const { AnteroomError, unreachable } = require('./errors');

/** The same contract as PipeLink. `command` is the anteroom program. */
class BridgeLink {
  #child;
  #error = null;
  #over = false;
  #gone = false; // said the helper: the sidecar has hung up
  #receiver;

  constructor(command, path, receiver) {
    this.#receiver = receiver;
    this.#child = spawn(command, ['node-bridge', '--handoff', path], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    this.#child.on('message', (message, handle) => this.#take(path, message, handle ?? null));
    this.#child.on('error', (cause) => this.#fault(new AnteroomError('BRIDGE', startHint(command, cause), { cause })));
    this.#child.on('disconnect', () => this.#end());
    this.#child.on('exit', () => this.#child.connected || this.#end());
  }

  send(data) {
    if (this.#child.connected) this.#child.send({ frames: data.toString('base64') }, () => {});
  }

  close() {
    if (this.#child.connected) this.#child.disconnect();
  }

  fail(error) {
    this.#error = error;
    this.close();
  }

  #take(path, message, handle) {
    if (message.unreachable) {
      this.#error = unreachable(path, message.unreachable);
    } else if (message.ended) {
      this.#gone = true;
    } else {
      this.#receiver.data(Buffer.from(message.frames, 'base64'), handle);
    }
  }

  /** The program could not be started, or a message could not be sent. */
  #fault(error) {
    this.#error ??= error;
    if (this.#child.pid === undefined) this.#end();
  }

  #end() {
    if (this.#over) return;
    this.#over = true;
    const what = this.#gone ? 'The sidecar hung up.' : 'The helper process (anteroom node-bridge) has ended.';
    this.#receiver.end(this.#error ?? new AnteroomError('LINK_LOST', what), this.#gone);
  }
}

function startHint(command, cause) {
  return (
    `Cannot run ${command} node-bridge, which this process needs to receive connections: ${cause.message}. ` +
    'Put the anteroom program into PATH, or name it in the option bridge or in ANTEROOM_BRIDGE.'
  );
}

module.exports = { BridgeLink };
