'use strict';
// The real sidecar, and what the tests do with it.

const { execFile, spawn } = require('node:child_process');
const { once } = require('node:events');
const { mkdtempSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { promisify } = require('node:util');

const run = promisify(execFile);

/** The built anteroom program. */
function program() {
  const found = process.env.ANTEROOM_TEST_BINARY;
  if (!found) throw new Error('Set ANTEROOM_TEST_BINARY to the path of a built anteroom (make build makes bin/anteroom).');
  return path.resolve(found);
}

/** A sidecar with one TCP listener, and the processes that the test starts beside it. All end with the test. */
class Sidecar {
  #folder = mkdtempSync(path.join(tmpdir(), 'anteroom-'));
  #children = [];

  constructor(t) {
    this.handoff = path.join(this.#folder, 'handoff.sock');
    this.control = `unix://${path.join(this.#folder, 'control.sock')}`;
    t.after(async () => {
      await Promise.all(this.#children.map((child) => this.kill(child)));
      rmSync(this.#folder, { recursive: true });
    });
  }

  async start(listen = 'tcp://127.0.0.1:0') {
    this.child = this.spawn(program(), ['serve', '--listen', listen, '--handoff', this.handoff, '--control', this.control, '--log-level', 'error']);
    await this.anteroom('healthcheck', '--live', '--wait', '10s');
    const { listeners } = await this.status();
    this.port = Number(new URL(listeners[0].address.replace('tcp:', 'http:')).port);
    return this;
  }

  async anteroom(...args) {
    const { stdout } = await run(program(), [...args, '--control', this.control]);
    return stdout;
  }

  /** What `anteroom status` counts, and the hosts. */
  async status() {
    const [{ counts }, { hosts }] = (await Promise.all([this.anteroom('status', '--json'), this.anteroom('hosts', '--json')])).map((text) => JSON.parse(text));
    return { ...counts, hosts };
  }

  /** Waits until the status satisfies the predicate. */
  async until(predicate) {
    for (let left = 500; left > 0; left--) {
      const counts = await this.status();
      if (predicate(counts)) return counts;
      await sleep(20);
    }
    throw new Error(`this did not happen: ${predicate}`);
  }

  spawn(command, args, environment = {}, stderr = 'inherit') {
    const child = spawn(command, args, { stdio: ['ignore', 'inherit', stderr], env: { ...process.env, ...environment } });
    this.#children.push(child);
    return child;
  }

  /** A process with a host in it, attached. */
  async app(name, environment = {}, script = path.join(__dirname, 'app/main.js')) {
    const child = this.spawn(process.execPath, [script], { ANTEROOM_HANDOFF: this.handoff, ANTEROOM_NAME: name, ANTEROOM_BRIDGE: program(), ...environment });
    await this.until(({ hosts }) => hosts.some((host) => host.name === name));
    return child;
  }

  /** The same process, with at most `limit` descriptors. What it says on standard error is in `child.said`. */
  async limitedApp(name, limit, environment = {}) {
    const script = path.join(__dirname, 'app/main.js');
    const command = ['-c', 'ulimit -n "$0" && exec "$@"', limit, process.execPath, script];
    const child = this.spawn('sh', command, { ANTEROOM_HANDOFF: this.handoff, ANTEROOM_NAME: name, ANTEROOM_BRIDGE: program(), ...environment }, 'pipe');
    child.said = '';
    child.stderr.setEncoding('utf8').on('data', (text) => (child.said += text));
    await this.until(({ hosts }) => hosts.some((host) => host.name === name));
    return child;
  }

  async kill(child, signal = 'SIGKILL') {
    if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
    child.kill(signal);
    const [code] = await once(child, 'exit');
    return code;
  }
}

module.exports = { Sidecar, program };
