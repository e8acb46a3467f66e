'use strict';
// What clients notice when processes die, leave and come: nothing.

const assert = require('node:assert/strict');
const http = require('node:http');
const path = require('node:path');
const test = require('node:test');

const { Sidecar } = require('./sidecar');

const REQUESTS = 1000;
const CONNECTIONS = 20;

for (const road of ['pipe', 'bridge']) {
  const on = (name, body) => test(`${road}: ${name}`, { timeout: 120_000 }, body);

  on('a rolling restart loses no request and closes no connection', async (t) => {
    const sidecar = await new Sidecar(t).start();
    const apps = [await sidecar.app('first', { ANTEROOM_ROAD: road })];
    const restart = async () => {
      apps.push(await sidecar.app(`app-${apps.length}`, { ANTEROOM_ROAD: road }));
      assert.equal(await sidecar.kill(apps.at(-2), 'SIGTERM'), 0);
    };
    const answers = await load(sidecar, { 200: restart, 500: restart, 800: restart });
    assert.deepEqual(count(answers), { 200: answers.length });
    assert.equal((await sidecar.status()).totals.accepted, String(CONNECTIONS));
    assert.ok(new Set(answers.map(({ body }) => body)).size >= 3, 'several processes have answered');
  });

  on('kill -9 loses at most what was being worked on, which a second try serves', async (t) => {
    const sidecar = await new Sidecar(t).start();
    const victim = await sidecar.app('victim', { ANTEROOM_ROAD: road });
    await sidecar.app('heir', { ANTEROOM_ROAD: road });
    const answers = await load(sidecar, { 300: () => sidecar.kill(victim) });
    // 502: the request was read, nothing was sent. ECONNRESET: the response may have begun.
    const { 200: ok, 502: unanswered = 0, ECONNRESET: broken = 0, ...others } = count(answers);
    assert.deepEqual(others, {});
    assert.ok(ok >= REQUESTS);
    assert.ok(unanswered + broken <= CONNECTIONS, `${unanswered} requests got 502, ${broken} a reset`);
    await sidecar.until(({ hosts }) => hosts.length === 1);
  });

  on('a helper does not outlive its process', { skip: road !== 'bridge' }, async (t) => {
    const sidecar = await new Sidecar(t).start();
    for (const signal of ['SIGKILL', 'SIGTERM']) {
      const app = await sidecar.app(signal, { ANTEROOM_ROAD: road });
      const { hosts } = await sidecar.status();
      assert.notEqual(hosts[0].pid, app.pid);
      process.kill(hosts[0].pid, 'SIGTERM'); // as a service manager does to all of a group
      await sidecar.kill(app, signal);
      await sidecar.until((status) => status.hosts.length === 0);
      await gone(hosts[0].pid);
    }
  });
}

test('the sidecar dies and comes back', { timeout: 60_000 }, async (t) => {
  const sidecar = await new Sidecar(t).start();
  await sidecar.app('app');
  await sidecar.kill(sidecar.child);
  await sidecar.start(`tcp://127.0.0.1:${sidecar.port}`);
  await sidecar.until(({ hosts }) => hosts.length === 1);
  assert.deepEqual(Object.keys(count(await load(sidecar, {}))), ['200']);
});

test('a signal ends the process when all of its servers have left', { timeout: 60_000 }, async (t) => {
  const sidecar = await new Sidecar(t).start();
  const child = sidecar.spawn(process.execPath, [path.join(__dirname, 'app/two.js')], { ANTEROOM_HANDOFF: sidecar.handoff });
  await sidecar.until(({ hosts }) => hosts.length === 2);
  const agent = new http.Agent();
  const answer = get(sidecar.port, '/sleep?ms=300', agent);
  await sidecar.until(({ states }) => states.leased === 1);
  assert.equal(await sidecar.kill(child, 'SIGTERM'), 0);
  assert.deepEqual(await answer, { status: 200, body: 'slept' });
});

test('each worker of a cluster attaches, and leaves when the cluster disconnects', { timeout: 60_000 }, async (t) => {
  const sidecar = await new Sidecar(t).start();
  const primary = sidecar.spawn(process.execPath, [path.join(__dirname, 'app/cluster.js')], { ANTEROOM_HANDOFF: sidecar.handoff });
  await sidecar.until(({ hosts }) => hosts.length === 2);
  const answers = await load(sidecar, {});
  assert.deepEqual(count(answers), { 200: answers.length });
  assert.equal(new Set(answers.map(({ body }) => body).filter(Number)).size, 2);
  assert.equal(await sidecar.kill(primary, 'SIGTERM'), 0);
  assert.equal((await sidecar.status()).hosts.length, 0);
});

/**
 * Asks at least REQUESTS times, most often for the process's number, over CONNECTIONS connections that stay open. `events[n]` runs at the nth
 * answer, one event after the other; the asking goes on until all are over. A request that fails is tried a second time, as clients do with
 * GET. Returns all answers; for a request that got none, the error's code as status.
 */
async function load(sidecar, events) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  const answers = [];
  let happening = Promise.resolve();
  let left = Object.keys(events).length;
  let failure;
  const record = (answer) => {
    answers.push(answer);
    const event = events[answers.length];
    if (event) happening = happening.then(event).catch((error) => (failure ??= error)).finally(() => left--);
    return answer;
  };
  let asked = 0;
  const client = async () => {
    while (asked++ < REQUESTS || left > 0) {
      const target = asked % 10 === 0 ? '/sleep?ms=10' : '/pid';
      const attempt = () => get(sidecar.port, target, agent).catch((error) => ({ status: error.code }));
      if (record(await attempt()).status !== 200) record(await attempt());
    }
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, client));
  agent.destroy();
  if (failure) throw failure;
  return answers;
}

function get(port, path, agent) {
  return new Promise((resolve, reject) => {
    const request = http.get({ port, path, agent }, async (response) => {
      let body = '';
      for await (const chunk of response) body += chunk;
      resolve({ status: response.statusCode, body: body.trim() });
    });
    request.on('error', reject);
  });
}

function count(answers) {
  const counts = {};
  for (const { status } of answers) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
}

/** Waits until there is no such process. */
async function gone(pid) {
  for (;;) {
    try {
      process.kill(pid, 0);
    } catch (error) {
      assert.equal(error.code, 'ESRCH');
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
