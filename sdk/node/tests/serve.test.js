'use strict';
// An http.Server behind the real sidecar, on both roads.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const http = require('node:http');
const https = require('node:https');
const net = require('node:net');
const path = require('node:path');
const test = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');

const anteroom = require('..');
const { FakeSidecar } = require('./fake');
const { Sidecar, program } = require('./sidecar');

for (const road of ['pipe', 'bridge']) {
  const on = (name, body) => test(`${road}: ${name}`, { timeout: 60_000 }, body);

  /** Serves an app, or a server, in this process until the end of the test. */
  async function serve(t, app, { sidecar: running, ...options } = {}) {
    const sidecar = running ?? (await new Sidecar(t).start());
    const service = anteroom.serve(app, { path: sidecar.handoff, road, bridge: program(), signals: [], log: () => {}, ...options });
    t.after(() => service.close());
    await once(service.server, 'listening');
    return { sidecar, service, client: await connect(t, sidecar.port) };
  }

  on('a connection goes back between its requests and is the same socket again', async (t) => {
    const sockets = new Set();
    const { sidecar, client } = await serve(t, (request, response) => {
      sockets.add(request.socket);
      response.end(`${request.socket.remoteAddress} ${request.socket.remotePort} ${request.socket.bytesRead}`);
    });
    for (let i = 1; i <= 3; i++) {
      const { body } = await client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
      assert.equal(body, `127.0.0.1 ${client.socket.localPort} ${i * 27}`);
      await sidecar.until(({ states }) => states.idle === 1);
    }
    assert.equal(sockets.size, 1);
    const { totals } = await sidecar.status();
    assert.deepEqual([totals.leases, totals.puts, totals.requests], ['3', '3', '3']);
  });

  on('idle connections outlive every timer of the server, and the server itself', async (t) => {
    const server = http.createServer((request, response) => response.end('first'));
    Object.assign(server, { timeout: 40, keepAliveTimeout: 40, headersTimeout: 40, requestTimeout: 40 });
    const { sidecar, service, client } = await serve(t, server);
    await client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    await sleep(120);
    assert.equal((await client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n')).body, 'first');
    server.closeAllConnections(); // lets go of the idle one's descriptor, no more
    assert.equal((await client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n')).body, 'first');
    await service.close();
    await serve(t, (request, response) => response.end('second'), { sidecar });
    assert.equal((await client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n')).body, 'second');
    assert.equal((await sidecar.status()).totals.accepted, '2'); // the other one is the second serve's, unused
  });

  on('clients are told how long the sidecar keeps the connection', async (t) => {
    const server = http.createServer((request, response) => response.end(String(request.socket.timeout ?? 0)));
    const { sidecar, service, client } = await serve(t, server);
    assert.match((await client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n')).head, /^Keep-Alive: timeout=7\d\r$/m);
    await service.close();
    await serve(t, server, { sidecar, keepAliveTimeout: 3000 });
    for (let i = 0; i < 2; i++) {
      const { head, body } = await client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
      assert.match(head, /^Keep-Alive: timeout=2\r$/m);
      assert.equal(body, '0'); // the timer for it, which Node has set after the response before, does not run
    }
  });

  on('pipelined requests are answered in order, one at a time', async (t) => {
    const seen = [];
    const { sidecar, client } = await serve(t, async (request, response) => {
      seen.push(request.url);
      for await (const chunk of request) seen.push(String(chunk));
      await sleep(request.url === '/slow' ? 30 : 0);
      seen.push(`${request.url} done`);
      response.end(request.url);
    });
    const rest = 'POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyGET /last HTTP/1.1\r\nHost: a\r\n\r\n';
    assert.equal((await client.ask(`GET /slow HTTP/1.1\r\nHost: a\r\n\r\n${rest}`)).body, '/slow');
    assert.equal((await client.answer()).body, '/post');
    assert.equal((await client.answer()).body, '/last');
    assert.deepEqual(seen, ['/slow', '/slow done', '/post', 'body', '/post done', '/last', '/last done']);
    const { totals } = await sidecar.until(({ states }) => states.idle === 1);
    assert.deepEqual([totals.leases, totals.requests], ['1', '3']);
  });

  on('more pipelined requests than are read at once', async (t) => {
    const { client } = await serve(t, (request, response) => response.end(request.url));
    const targets = Array.from({ length: 4000 }, (_, i) => `/${i}`);
    client.socket.write(targets.map((target) => `GET ${target} HTTP/1.1\r\nHost: a\r\n\r\n`).join(''));
    for (const target of targets) assert.equal((await client.answer()).body, target);
  });

  on('what the app throws is that request\'s alone', async (t) => {
    const sidecar = await new Sidecar(t).start();
    await sidecar.app('throws', { ANTEROOM_ROAD: road }, path.join(__dirname, 'app/throws.js'));
    const clients = await Promise.all(Array.from({ length: 5 }, () => connect(t, sidecar.port)));
    const ask = (client, target) => client.ask(`GET ${target} HTTP/1.1\r\nHost: a\r\n\r\n`);
    for (const client of clients) assert.equal((await ask(client, '/')).body, '/');
    const [first, second, ...others] = clients;
    const busy = ask(first, '/busy'); // the others' leases come together
    await sleep(50);
    second.socket.write('GET /throw HTTP/1.1\r\nHost: a\r\n\r\n');
    for (const answer of [busy, ...others.map((client) => ask(client, '/'))]) assert.equal((await answer).status, 200);
  });

  on('a response that does not wait for the body', async (t) => {
    const { sidecar, client } = await serve(t, (request, response) => {
      response.statusCode = 413;
      response.end('too much');
    });
    const size = 1 << 20;
    client.socket.write(`POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${size}\r\n\r\n${'x'.repeat(1000)}`);
    assert.equal((await client.answer()).status, 413);
    assert.equal((await sidecar.status()).states.leased, 1);
    client.socket.write('x'.repeat(size - 1000));
    await sidecar.until(({ states }) => states.idle === 1);
    assert.equal((await client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n')).status, 413);
  });

  on('100 Continue', async (t) => {
    const { client } = await serve(t, async (request, response) => {
      let length = 0;
      for await (const chunk of request) length += chunk.length;
      response.end(String(length));
    });
    const interim = await client.ask('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n');
    assert.equal(interim.status, 100);
    assert.equal((await client.ask('hello')).body, '5');
  });

  on('the app hears of a client that goes while it works', async (t) => {
    const server = http.createServer();
    const { sidecar, client } = await serve(t, server);
    const asked = once(server, 'request');
    client.socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    const [, response] = await asked;
    const gone = once(response, 'close');
    client.socket.destroy();
    await gone;
    await sidecar.until(({ states }) => states.leased === 0);
  });

  on('a server that closes finishes what it was lent', async (t) => {
    const server = http.createServer();
    const { sidecar, client } = await serve(t, server);
    assert.ok(server.listening);
    const asked = once(server, 'request');
    const answer = client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    const [, response] = await asked;
    const closed = new Promise((resolve) => server.close(resolve));
    await sidecar.until(({ hosts }) => hosts[0].draining);
    assert.ok(!server.listening);
    response.end('late');
    assert.equal((await answer).body, 'late');
    assert.equal(await closed, undefined);
    await sidecar.until(({ states, hosts }) => states.idle === 1 && hosts.length === 0);
  });

  on('drainTimeout ends what takes too long', async (t) => {
    const server = http.createServer();
    const { service, client } = await serve(t, server, { drainTimeout: 20 });
    const asked = once(server, 'request');
    client.socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    const [request] = await asked;
    await service.close();
    assert.ok(request.socket.destroyed);
  });

  on('few sockets are kept of many connections', async (t) => {
    const { sidecar, service } = await serve(t, (request, response) => response.end('ok'), { cache: 2 });
    const clients = await Promise.all(Array.from({ length: 5 }, () => connect(t, sidecar.port)));
    for (let round = 0; round < 3; round++) {
      for (const client of clients) assert.equal((await client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n')).body, 'ok');
    }
    assert.equal((await sidecar.status()).totals.requests, '15');
    await service.close();
    const { service: none } = await serve(t, (request, response) => response.end('none'), { cache: 0, sidecar });
    for (const client of [...clients, ...clients]) assert.equal((await client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n')).body, 'none');
    assert.ok(!none.host.has('cache'));
  });

  on('out of descriptors it drops idle connections, serves all clients, and says so once', async (t) => {
    const sidecar = await new Sidecar(t).start();
    const app = await sidecar.limitedApp('limited', 48, { ANTEROOM_ROAD: road });
    const clients = [];
    for (let i = 0; i < 60; i++) {
      clients.push(await connect(t, sidecar.port));
      assert.equal((await clients[i].ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n')).status, 200, `client ${i}`);
    }
    for (const client of clients) assert.equal((await client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n')).status, 200);
    assert.match(app.said, /^anteroom: This process has no descriptor left for a connection; \d+ idle ones that it kept were dropped\. Raise .*\n$/);
    assert.ok((await sidecar.status()).hosts[0].nacks > 0);
  });

  on('address is that of the first listener', async (t) => {
    const server = http.createServer((request, response) => response.end());
    const heard = once(server, 'listening').then(() => server.address()); // as bin/www of express-generator does
    const { sidecar, service } = await serve(t, server);
    assert.deepEqual(await heard, { address: '127.0.0.1', family: 'IPv4', port: sidecar.port });
    await service.close();
    assert.equal(server.address(), null);
  });

  on('an upgrade takes what came behind the request, and the capacity is free', async (t) => {
    const server = http.createServer((request, response) => response.end('ok')).on('upgrade', (request, socket, head) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n');
      socket.write(head);
      socket.pipe(socket);
    });
    const { sidecar, client } = await serve(t, server, { capacity: 1 });
    const { status, rest } = await client.ask('GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nearly');
    assert.equal(status, 101);
    assert.equal(rest + (rest.length < 5 ? await client.read(5 - rest.length) : ''), 'early');
    client.socket.write('later');
    assert.equal(await client.read(5), 'later');
    const other = await connect(t, sidecar.port);
    assert.equal((await other.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n')).body, 'ok');
    client.socket.end();
    await once(client.socket, 'close'); // a FIN of ours: the sidecar has no part in it
  });

  on('an upgrade that nobody listens for is a request', async (t) => {
    const { client } = await serve(t, (request, response) => response.end('plain'));
    const upgrade = 'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n';
    assert.equal((await client.ask(upgrade)).body, 'plain');
    assert.equal((await client.ask(upgrade)).body, 'plain');
  });

  on('the server times out a head that does not end', async (t) => {
    const sidecar = await new Sidecar(t).start('tcp://127.0.0.1:0?ready=bytes');
    const server = http.createServer({ headersTimeout: 60, requestTimeout: 60, connectionsCheckingInterval: 20 }, (request, response) => response.end());
    const { client } = await serve(t, server, { sidecar });
    assert.equal((await client.ask('GET / HTTP/1.1\r\nHost:')).status, 408);
  });

  on('what cannot be framed without doubt is answered, and the connection ends', async (t) => {
    const server = http.createServer({ insecureHTTPParser: true }, (request, response) => response.end(request.url));
    const { client } = await serve(t, server);
    const { body, head } = await client.ask('GET /odd HTTP/1.1\r\nHost: a\r\nX: folded\r\n line\r\n\r\n');
    assert.equal(body, '/odd');
    assert.match(head, /connection: close/i);
    await once(client.socket, 'end');
  });

  on('a helper that dies leaves one answer to each request', { skip: road !== 'bridge' }, async (t) => {
    const server = http.createServer();
    const { sidecar, client } = await serve(t, server);
    const asked = once(server, 'request');
    const answer = client.ask('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    const [request, response] = await asked;
    const { hosts } = await sidecar.status();
    process.kill(hosts[0].pid, 'SIGKILL');
    await once(request.socket, 'close');
    response.end('too late');
    assert.equal((await answer).status, 502);
  });
}

test('frameworks', async (t) => {
  const sidecar = await new Sidecar(t).start();

  await t.test('Express', async (t) => {
    const express = fromDebian(t, 'express');
    if (!express) return;
    const app = express().post('/json', express.json(), (request, response) => response.json({ got: request.body, ip: request.ip }));
    const service = anteroom.serve(app, { path: sidecar.handoff, road: 'pipe', signals: [] });
    t.after(() => service.close());
    const client = await connect(t, sidecar.port);
    for (let i = 0; i < 2; i++) {
      const { body } = await client.ask('POST /json HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}');
      assert.deepEqual(JSON.parse(body), { got: { a: 1 }, ip: '127.0.0.1' });
    }
  });

  await t.test('WebSockets with ws', async (t) => {
    const ws = fromDebian(t, 'ws');
    if (!ws) return;
    const server = http.createServer();
    new ws.WebSocketServer({ server }).on('connection', (socket) => socket.on('message', (text) => socket.send(`echo ${text}`)));
    const service = anteroom.serve(server, { path: sidecar.handoff, road: 'pipe', signals: [] });
    t.after(() => service.close());
    const socket = new ws.WebSocket(`ws://127.0.0.1:${sidecar.port}/`);
    await once(socket, 'open');
    socket.send('hello');
    assert.equal(String((await once(socket, 'message'))[0]), 'echo hello');
    socket.close();
    await once(socket, 'close');
  });
});

test('address is a path where the listener is a Unix socket, and where there is none', async (t) => {
  const sidecar = await new FakeSidecar(t).start();
  const cases = [
    [['unix:///run/a.sock'], '/run/a.sock'],
    [['tcp://[::1]:80', 'unix:///run/a.sock'], { address: '::1', family: 'IPv6', port: 80 }],
    [[], sidecar.path],
  ];
  for (const [listeners, wanted] of cases) {
    const service = anteroom.serve(http.createServer(), { path: sidecar.path, road: 'pipe', signals: [], log: () => {} });
    assert.equal(service.server.address(), null);
    const listening = once(service.server, 'listening');
    const link = await sidecar.welcome({ listeners });
    await listening;
    assert.deepEqual(service.server.address(), wanted);
    link.hangUp();
    await service.close();
  }
});

test('unknown options are mistakes', () => {
  const server = http.createServer();
  assert.throws(() => anteroom.serve(server, { keepalivetimeout: 5 }), /Unknown option keepalivetimeout, did you mean keepAliveTimeout\?/);
  assert.throws(() => anteroom.serve(server, { port: 80 }), /Unknown option port\. There are path, pool, .*, log\./);
  assert.throws(() => anteroom.attach({ cache: 5 }), { name: 'TypeError', message: /Unknown option cache/ });
  assert.equal(server.listening, false);
});

test('only plain HTTP/1 can be lent', () => {
  assert.throws(() => anteroom.serve(https.createServer()), /takes an http.Server/);
  assert.throws(() => anteroom.serve(net.createServer()), TypeError);
});

/** A package of Debian's, found by NODE_PATH, or undefined where it is not installed. */
function fromDebian(t, name) {
  try {
    return require(name);
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND' || process.env.CI) throw error; // there, make deps has installed it
    t.skip(`the Debian package node-${name} is not installed`);
    return undefined;
  }
}

/** A client that sees the bytes. */
async function connect(t, port) {
  const client = new Client(net.connect(port, '127.0.0.1'));
  t.after(() => client.socket.destroy());
  await once(client.socket, 'connect');
  return client;
}

class Client {
  #data = '';

  constructor(socket) {
    this.socket = socket.setEncoding('latin1').on('error', () => {});
    socket.on('data', (text) => (this.#data += text));
  }

  ask(request) {
    this.socket.write(request);
    return this.answer();
  }

  /** The next response: by its Content-Length or chunks, or without a body. */
  async answer() {
    const end = (await this.#until(() => this.#data.indexOf('\r\n\r\n') + 1)) + 3;
    const head = this.#take(end);
    const status = Number(head.split(' ')[1]);
    if (status < 200) return { status, head, rest: this.#take(this.#data.length) };
    const length = /content-length: (\d+)/i.exec(head);
    return { status, head, body: length ? await this.read(Number(length[1])) : '' };
  }

  async read(length) {
    await this.#until(() => this.#data.length >= length);
    return this.#take(length);
  }

  #take(length) {
    const taken = this.#data.slice(0, length);
    this.#data = this.#data.slice(length);
    return taken;
  }

  async #until(predicate) {
    for (;;) {
      const found = predicate();
      if (found) return found;
      if (this.socket.readableEnded || this.socket.destroyed) throw new Error(`the connection has ended after ${JSON.stringify(this.#data)}`);
      await Promise.race([once(this.socket, 'data'), once(this.socket, 'close')]);
    }
  }
}
