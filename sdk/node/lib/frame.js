'use strict';
// The frames of the handoff protocol, as bytes. handoff/PROTOCOL.md is the specification.

const { AnteroomError } = require('./errors');

const VERSION = 1;
const MAGIC = Buffer.from('ANTR').readUInt32LE();
const HEADER_SIZE = 32;
const MAX_PAYLOAD = 8192;
const FIRST_CRITICAL = 0x80;

/** What a frame means. Below 0x20 hosts speak, from there on the sidecar. */
const Type = Object.freeze({
  HELLO: 0x01,
  PUT: 0x02,
  CLOSE: 0x03,
  DETACH: 0x04,
  NACK: 0x05,
  CAPACITY: 0x0a,
  DROPPED: 0x0b,
  DRAIN: 0x0c, // DRAINING, said by the host
  PONG: 0x0d,

  WELCOME: 0x21,
  REFUSE: 0x22,
  LEASE: 0x23,
  FORGET: 0x24,
  DRAINING: 0x28, // DRAINING, said by the sidecar
  PING: 0x29,
  ERROR: 0x2a,
});

const Flag = Object.freeze({ FD: 0x01, FRESH: 0x02, LAST: 0x04, SILENT: 0x08, STICKY: 0x10 });

/** The names of the codes in REFUSE and ERROR, by number. */
const CODES = [
  undefined,
  'BAD_FRAME',
  'BAD_MAGIC',
  'BAD_VERSION',
  'BAD_PAYLOAD',
  'HELLO_TWICE',
  'HELLO_LATE',
  'TOO_LONG',
  'NO_DESCRIPTOR',
  'STRAY_DESCRIPTOR',
  'BAD_DESCRIPTOR',
  'NOT_YOURS',
  'AT_LIMIT',
  'TOO_SLOW',
  'NOT_ALLOWED',
  'STOPPING',
  'OUT_OF_DESCRIPTORS',
  'NOT_AGREED',
  'NOT_ANSWERING',
];

/** The name of a code; also of one that only a later version knows. */
function codeName(code) {
  return CODES[code] ?? `code ${code}`;
}

/** Why a host ends a connection. */
const CloseReason = Object.freeze({ DONE: 0, CLIENT: 1, TOO_SLOW: 2, APP: 3, OVERLOAD: 4 });

/** Why a host cannot take a lease. */
const NackReason = Object.freeze({ NO_DESCRIPTOR: 1, UNKNOWN: 2, OVERLOAD: 3 });

/** Why a connection is no longer the host's. */
const ForgetReason = Object.freeze({ MOVED: 1, EXPIRED: 2, HUNG_UP: 3, EVICTED: 4, OPERATOR: 5, STOPPED: 6, FAILED: 7 });

const NOTHING = Buffer.alloc(0);

/** The frame's bytes. `a` and `b` may be numbers or BigInts. Throws RangeError for what does not fit. */
function encode({ type, flags = 0, seq = 0, conn = 0, a = 0n, b = 0n, payload = NOTHING }) {
  if (payload.length > MAX_PAYLOAD) {
    throw new RangeError(`a payload of ${payload.length} bytes, ${MAX_PAYLOAD} are allowed`);
  }
  const data = Buffer.allocUnsafe(HEADER_SIZE + payload.length);
  data.writeUInt8(type, 0);
  data.writeUInt8(flags, 1);
  data.writeUInt16LE(payload.length, 2);
  data.writeUInt32LE(seq, 4);
  data.writeBigUInt64LE(BigInt(conn), 8);
  data.writeBigUInt64LE(BigInt(a), 16);
  data.writeBigUInt64LE(BigInt(b), 24);
  data.set(payload, HEADER_SIZE);
  return data;
}

/**
 * The frame that begins at `start`, or null if it is not all there. `end` is where the next one begins; `payload` shares memory with `data`;
 * `a` and `b` are BigInts, `conn`, which is below 2^53, is a number. Throws AnteroomError (PROTOCOL) as soon as the header shows that the
 * frame cannot be taken; where the next one begins is then unknown.
 */
function decode(data, start = 0) {
  const body = start + HEADER_SIZE;
  if (data.length < body) return null;
  const type = data[start];
  if (type >= FIRST_CRITICAL) {
    throw badFrame('BAD_FRAME', `a frame of type 0x${type.toString(16)}, which is unknown here and may not be ignored`);
  }
  const length = data.readUInt16LE(start + 2);
  if (length > MAX_PAYLOAD) throw badFrame('TOO_LONG', `a frame with a payload of ${length} bytes, ${MAX_PAYLOAD} are allowed`);
  const end = body + length;
  if (data.length < end) return null;
  return {
    type,
    flags: data[start + 1],
    seq: data.readUInt32LE(start + 4),
    conn: data.readUInt32LE(start + 8) + data.readUInt32LE(start + 12) * 2 ** 32,
    a: data.readBigUInt64LE(start + 16),
    b: data.readBigUInt64LE(start + 24),
    payload: data.subarray(body, end),
    start,
    end,
  };
}

function badFrame(reason, what) {
  return new AnteroomError('PROTOCOL', `The sidecar sent ${what}.`, { reason });
}

module.exports = {
  VERSION,
  MAGIC,
  MAX_PAYLOAD,
  Type,
  Flag,
  CloseReason,
  NackReason,
  ForgetReason,
  codeName,
  encode,
  decode,
};
