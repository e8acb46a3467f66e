'use strict';
// The codec against the vectors that every implementation runs.

const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const path = require('node:path');
const test = require('node:test');

const { MAX_PAYLOAD, Type, decode, encode } = require('../lib/frame');

const VECTORS = path.join(__dirname, '../../../handoff/testdata/vectors');

function load(name) {
  return JSON.parse(readFileSync(path.join(VECTORS, name), 'utf8'));
}

for (const vector of load('frames.json')) {
  const { name, hex, conn, a, b, payload, ...rest } = vector;
  const data = Buffer.from(hex, 'hex');
  const frame = { ...rest, conn: Number(conn), a: BigInt(a), b: BigInt(b), payload: Buffer.from(payload) };

  test(`frame: ${name}`, () => {
    assert.deepEqual(encode(frame), data);
    assert.deepEqual(plain(decode(data)), { ...frame, start: 0, end: data.length, handle: null });
    // In a stream, with something before and behind.
    const second = plain(decode(Buffer.concat([Buffer.from('??'), data, data]), 2));
    assert.deepEqual(second, { ...frame, start: 2, end: 2 + data.length, handle: null });
  });

  test(`every beginning wants more: ${name}`, () => {
    for (let length = 0; length < data.length; length++) assert.equal(decode(data.subarray(0, length)), null);
  });
}

for (const { name, hex, want } of load('incomplete_and_bad.json')) {
  test(`bad: ${name}`, () => {
    const data = Buffer.from(hex, 'hex');
    if (want === 'more') {
      assert.equal(decode(data), null);
    } else {
      assert.throws(() => decode(data), { code: 'ERR_ANTEROOM_PROTOCOL', reason: want });
    }
  });
}

/** The members as an object; `b` as a BigInt. */
function plain(frame) {
  const { low, high, ...members } = frame;
  assert.equal(frame.a, (BigInt(high) << 32n) + BigInt(low));
  return { ...members, a: frame.a, b: BigInt(frame.b) };
}

test('numbers that do not fit are not sent', () => {
  for (const a of [-1, 2 ** 64, -1n, 2n ** 64n]) assert.throws(() => encode({ type: Type.PUT, a }), RangeError);
});

test('a payload that is too long is not sent', () => {
  assert.throws(() => encode({ type: Type.HELLO, payload: Buffer.alloc(MAX_PAYLOAD + 1) }), /8193 bytes/);
});
