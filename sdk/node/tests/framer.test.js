'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');

const { Framer } = require('../lib/framer');

const NEXT = 'GET /next HTTP/1.1\r\n\r\n';

const WHOLE = {
  'no body': 'GET / HTTP/1.1\r\nHost: a\r\n\r\n',
  'no fields': 'GET / HTTP/1.0\r\n\r\n',
  'empty lines before': '\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n',
  'a length': 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello',
  'a length of 0': 'POST / HTTP/1.1\r\ncontent-length:0\r\n\r\n',
  'a body that looks like a request': 'POST / HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n',
  'a length in a value': 'GET / HTTP/1.1\r\nX: content-length: 5\r\n\r\n',
  chunked: 'POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\nA;x="y"\r\n0123456789\r\n0\r\n\r\n',
  trailers: 'POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n000\r\nA: b\r\nC: d\r\n\r\n',
  upgrade: 'GET / HTTP/1.1\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n',
};

for (const [name, request] of Object.entries(WHOLE)) {
  test(`ends where the next request begins, however it is cut: ${name}`, () => {
    for (let cut = 0; cut <= request.length; cut++) {
      const framer = new Framer();
      const parts = [Buffer.from(request.slice(0, cut)), Buffer.from(request.slice(cut) + NEXT)];
      const first = framer.take(parts[0]);
      assert.equal(first, cut);
      assert.equal(framer.ended, cut === request.length);
      if (!framer.ended) assert.equal(framer.take(parts[1]), request.length - cut);
      assert.ok(framer.ended && !framer.odd);
      framer.begin();
      assert.equal(framer.take(Buffer.from(NEXT)), NEXT.length);
      assert.ok(framer.ended);
    }
  });
}

const ODD = {
  'bare LF': 'GET / HTTP/1.1\nHost: a\n\n',
  'one bare LF': 'GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n',
  'bare CR': 'GET / HTTP/1.1\r\nHost: a\rB: c\r\n\r\n',
  'a folded field': 'GET / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n',
  'two lengths': 'POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello',
  'both lengths': 'POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
  'a list of lengths': 'POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello',
  'a signed length': 'POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello',
  'another coding': 'POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n',
  'no chunk size': 'POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n',
  'a chunk size with a bare LF': 'POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n',
};

for (const [name, request] of Object.entries(ODD)) {
  test(`takes the rest of the stream for its own: ${name}`, () => {
    const framer = new Framer();
    const data = Buffer.from(request + NEXT);
    assert.equal(framer.take(data), data.length);
    assert.ok(framer.odd && !framer.ended);
  });
}

for (const start of ['', 'POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;']) {
  test(`does not keep a line without end, after ${JSON.stringify(start)}`, () => {
    const framer = new Framer();
    framer.take(Buffer.from(start));
    for (let i = 0; i < 33; i++) framer.take(Buffer.alloc(1 << 15, 'x'));
    assert.ok(framer.odd);
  });
}

test('a head that comes byte by byte with CRLF is not odd', () => {
  const framer = new Framer();
  for (const byte of Buffer.from(WHOLE['a length'])) {
    assert.equal(framer.take(Buffer.of(byte)), 1);
    assert.ok(!framer.odd);
  }
  assert.ok(framer.ended);
});
