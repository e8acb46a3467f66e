'use strict';
// What the host says, on both roads, against a sidecar that does as told.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const test = require('node:test');

const anteroom = require('..');
const { unreachable } = require('../lib/errors');
const { Flag, MAGIC, NackReason, Type } = require('../lib/frame');
const { complete } = require('../lib/options');
const { FakeSidecar } = require('./fake');
const { program } = require('./sidecar');

for (const road of ['pipe', 'bridge']) {
  const on = (name, body) => test(`${road}: ${name}`, body);

  const attach = (sidecar, options = {}) => anteroom.attach({ path: sidecar.path, road, bridge: program(), ...options });

  on('says who it is', async (t) => {
    const sidecar = await new FakeSidecar(t).start();
    const host = attach(sidecar, { name: 'web:1', pool: 'a_b.c-d', capacity: 4096, features: ['cache'] });
    const attached = once(host, 'attach');
    const { hello } = await sidecar.welcome({ features: ['cache'] });
    assert.equal(hello.a, BigInt(MAGIC) | (1n << 32n));
    const { agent, ...said } = JSON.parse(hello.payload);
    assert.deepEqual(said, { name: 'web:1', pool: 'a_b.c-d', capacity: 4096, features: ['cache'] });
    assert.match(agent, /^anteroom-node\/\d/);
    const [welcome] = await attached;
    assert.equal(welcome.keep_alive_timeout_ms, 75000);
    assert.ok(host.has('cache') && !host.has('finish'));
    await leave(host, sidecar);
  });

  on('echoes 64 bits of a PING, and says its capacity', async (t) => {
    const sidecar = await new FakeSidecar(t).start();
    const host = attach(sidecar);
    const link = await sidecar.welcome();
    link.send({ type: Type.PING, a: 0xffffffffffffffffn });
    assert.equal((await link.next(Type.PONG)).a, 0xffffffffffffffffn);
    host.setCapacity(0);
    assert.equal((await link.next(Type.CAPACITY)).a, 0n);
    assert.throws(() => host.setCapacity(4097), RangeError);
    link.hangUp();
    await leave(host, sidecar);
  });

  on('refuses a lease whose descriptor was lost', async (t) => {
    const sidecar = await new FakeSidecar(t).start();
    const host = attach(sidecar);
    host.on('lease', () => assert.fail('there is nothing to serve'));
    const link = await sidecar.welcome();
    link.send({ type: Type.LEASE, flags: Flag.FD, conn: 7, seq: 9 });
    // The bridge's own inbox finds this an error of the sidecar, and hangs up.
    if (road === 'bridge') return Promise.all([link.end(), leave(host, sidecar)]);
    const nack = await link.next(Type.NACK);
    assert.deepEqual([nack.conn, nack.seq, Number(nack.a)], [7, 9, NackReason.NO_DESCRIPTOR]);
    link.hangUp();
    await leave(host, sidecar);
  });

  on('answers a lease once, and not when it was taken back', async (t) => {
    const sidecar = await new FakeSidecar(t).start();
    const host = attach(sidecar, { capacity: 2 });
    const link = await sidecar.welcome();
    const leases = [];
    host.on('lease', (lease) => leases.push(lease));
    link.send({ type: Type.LEASE, flags: Flag.LAST, conn: 2 ** 53 - 1, seq: 2 ** 32 - 1, a: (100n << 32n) | 30n, b: 1500, payload: '{"peer":"[::1]:80"}' });
    link.send({ type: Type.LEASE, flags: Flag.FRESH, conn: 2, seq: 1 });
    link.send({ type: Type.FORGET, conn: 2, a: 5 });
    const [conn, reason, taken] = await once(host, 'forget');
    const [first, second] = leases;
    assert.deepEqual([conn, reason, taken], [2, anteroom.ForgetReason.OPERATOR, second]);
    assert.deepEqual([second.fresh, second.last, second.over, second.put()], [true, false, true, false]);
    assert.deepEqual([first.fresh, first.last, first.silent, first.over], [false, true, false, false]);
    assert.deepEqual([first.headLength, first.requestLength, first.waited, first.peer], [30, 100, 1.5, '[::1]:80']);
    assert.equal(first.takeHandle(), null);
    assert.deepEqual([first.put({ keepAlive: 10_000, requests: 3 }), first.put(), first.close()], [true, false, false]);
    const put = await link.next(Type.PUT);
    assert.deepEqual([put.conn, put.seq, put.a, put.b], [2 ** 53 - 1, 2 ** 32 - 1, 10_000n, 3]);
    link.hangUp();
    await leave(host, sidecar);
  });

  on('comes back when the sidecar does', async (t) => {
    const sidecar = await new FakeSidecar(t).start();
    const host = attach(sidecar);
    (await sidecar.welcome()).hangUp();
    const [error, retryIn] = await once(host, 'detach');
    assert.equal(error.code, 'ERR_ANTEROOM_LINK_LOST');
    assert.ok(retryIn <= 50);
    const link = await sidecar.welcome();
    link.send({ type: Type.DRAINING });
    await link.next(Type.DRAIN);
    link.hangUp();
    (await sidecar.welcome()).hangUp();
    await leave(host, sidecar);
  });

  on('says what is wrong', async (t) => {
    const sidecar = new FakeSidecar(t);
    const host = attach(sidecar);
    const failure = async () => (await once(host, 'detach'))[0];
    assert.match((await failure()).message, /no handoff socket .* Start the sidecar/);
    await sidecar.start();
    const refuse = async () => (await sidecar.link()).send({ type: Type.REFUSE, a: 14, payload: 'you are not root' });
    const [refused] = await Promise.all([failure(), refuse()]);
    assert.deepEqual([refused.code, refused.reason], ['ERR_ANTEROOM_REFUSED', 'NOT_ALLOWED']);
    assert.equal(refused.message, 'NOT_ALLOWED: you are not root.');
    const end = async () => (await sidecar.welcome()).send({ type: Type.ERROR, a: 13, payload: 'too slow' });
    const [ended] = await Promise.all([failure(), end()]);
    assert.deepEqual([ended.code, ended.reason], ['ERR_ANTEROOM_ENDED', 'TOO_SLOW']);
    const babble = async () => (await sidecar.welcome()).send({ type: 0x80 });
    assert.equal((await Promise.all([failure(), babble()]))[0].code, 'ERR_ANTEROOM_' + (road === 'pipe' ? 'PROTOCOL' : 'LINK_LOST'));
    await leave(host, sidecar);
  });

  on('leaves when its leases are answered', async (t) => {
    const sidecar = await new FakeSidecar(t).start();
    const host = attach(sidecar);
    const link = await sidecar.welcome();
    link.send({ type: Type.LEASE, conn: 1, seq: 1 });
    const [lease] = await once(host, 'lease');
    const closed = host.close();
    assert.equal(host.close(), closed);
    await link.next(Type.DRAIN);
    lease.put();
    await link.next(Type.PUT);
    link.hangUp();
    await closed;
  });

  on('leaves without its leases after a while', async (t) => {
    const sidecar = await new FakeSidecar(t).start();
    const host = attach(sidecar);
    const link = await sidecar.welcome();
    link.send({ type: Type.LEASE, conn: 1, seq: 1 });
    const [lease] = await once(host, 'lease');
    const forgotten = once(host, 'forget');
    const closed = host.close(20);
    await link.next(Type.DRAIN);
    await link.end();
    assert.deepEqual(await forgotten, [1, anteroom.ForgetReason.MOVED, lease]);
    await closed;
    assert.equal(lease.put(), false);
  });
}

test('where Node does not lend its pipe, the bridge is taken', async (t) => {
  const { binding } = process;
  t.after(() => (process.binding = binding));
  process.binding = () => {
    throw new Error('denied');
  };
  assert.throws(() => anteroom.attach({ road: 'pipe' }), { code: 'ERR_ANTEROOM_BRIDGE' });
  const sidecar = await new FakeSidecar(t).start();
  const host = anteroom.attach({ path: sidecar.path, bridge: program() });
  (await sidecar.welcome()).hangUp();
  await host.close();
});

test('the bridge says how to find its program', async () => {
  const host = anteroom.attach({ road: 'bridge', bridge: '/nonexistent/anteroom' });
  const [error] = await once(host, 'detach');
  assert.equal(error.code, 'ERR_ANTEROOM_BRIDGE');
  assert.match(error.message, /ANTEROOM_BRIDGE/);
  await host.close();
});

test('an address as the sidecar writes it', () => {
  assert.equal(complete({ path: 'unix:///run/h.sock' }, {}).path, '/run/h.sock');
  assert.equal(complete({}, { ANTEROOM_HANDOFF: 'unix:///run/h.sock' }).path, '/run/h.sock');
  for (const path of ['relative.sock', 'unix://relative.sock', '/unix:///a.sock']) assert.equal(complete({ path }, {}).path, path);
});

test('no permission', () => {
  assert.match(unreachable('/h', 'EACCES').message, /socket \/h\. .*handoff-allow-uid.*handoff-allow-gid/);
});

test('bad options are refused at once', () => {
  assert.throws(() => anteroom.attach({ name: 'a b' }), /The name "a b" must be/);
  assert.throws(() => anteroom.attach({ pool: 'a/b' }), /The pool/);
  assert.throws(() => anteroom.attach({ capacity: 0 }), RangeError);
  assert.throws(() => anteroom.attach({ capacity: 'many' }), RangeError);
  assert.throws(() => anteroom.attach({ road: 'rail' }), /one of auto, pipe, bridge/);
});

/** Leaves a sidecar that no longer answers; none of this may keep the process alive. */
async function leave(host, sidecar) {
  const closed = host.close(10);
  sidecar.stop();
  await closed;
}
