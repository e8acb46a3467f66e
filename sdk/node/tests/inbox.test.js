'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');

const { Flag, Type, encode } = require('../lib/frame');
const { Inbox } = require('../lib/inbox');

class Handle {
  closed = 0;

  close() {
    this.closed++;
  }
}

const withHandle = (conn) => encode({ type: Type.LEASE, flags: Flag.FD, conn });
const plain = (conn) => encode({ type: Type.FORGET, conn });
const pairs = (received) => received.map(({ conn, handle }) => [conn, handle]);

test('a handle belongs to the frame behind the plain ones', () => {
  const handle = new Handle();
  assert.deepEqual(pairs(new Inbox().feed(Buffer.concat([plain(1), plain(2), withHandle(3)]), handle)), [
    [1, null],
    [2, null],
    [3, handle],
  ]);
});

test('a frame cut at any byte has the handle that came with its first part', () => {
  const data = Buffer.concat([plain(1), withHandle(2)]);
  for (let cut = 33; cut < data.length; cut++) {
    const inbox = new Inbox();
    const [first, second] = [new Handle(), new Handle()];
    assert.deepEqual(pairs(inbox.feed(data.subarray(0, cut), first)), [[1, null]]);
    const rest = Buffer.concat([data.subarray(cut), withHandle(3)]);
    assert.deepEqual(pairs(inbox.feed(rest, second)), [
      [2, first],
      [3, second],
    ]);
  }
});

test('a lost handle is not replaced by the next one', () => {
  const inbox = new Inbox();
  const handle = new Handle();
  assert.deepEqual(pairs(inbox.feed(withHandle(1).subarray(0, 20))), []);
  assert.deepEqual(pairs(inbox.feed(Buffer.concat([withHandle(1).subarray(20), withHandle(2)]), handle)), [
    [1, null],
    [2, handle],
  ]);
});

test('a handle that no frame announces is closed, and an error', () => {
  const inbox = new Inbox();
  const handle = new Handle();
  assert.throws(() => inbox.feed(plain(1), handle), { code: 'ERR_ANTEROOM_PROTOCOL' });
  assert.equal(handle.closed, 1);
});

test('a handle without a frame is closed, and an error', () => {
  const inbox = new Inbox();
  const handle = new Handle();
  inbox.feed(plain(1).subarray(0, 20));
  assert.throws(() => inbox.feed(plain(1).subarray(20, 25), handle), { code: 'ERR_ANTEROOM_PROTOCOL' });
  assert.equal(handle.closed, 1);
});

test('what is left at the end is closed', () => {
  const inbox = new Inbox();
  const handle = new Handle();
  inbox.feed(withHandle(1).subarray(0, 1), handle);
  inbox.close();
  inbox.close();
  assert.equal(handle.closed, 1);
});
