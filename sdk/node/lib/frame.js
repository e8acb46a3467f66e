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
const TWO_32 = 2 ** 32;

/** A frame as it has arrived. `payload` shares memory with what was read; `conn`, which is below 2^53, and `b` are numbers. */
class Frame {
  constructor(data, start, end) {
    this.type = data[start];
    this.flags = data[start + 1];
    this.seq = data.readUInt32LE(start + 4);
    this.conn = readNumber(data, start + 8);
    /** The two halves of `a`. */
    this.low = data.readUInt32LE(start + 16);
    this.high = data.readUInt32LE(start + 20);
    this.b = readNumber(data, start + 24);
    this.payload = end === start + HEADER_SIZE ? NOTHING : data.subarray(start + HEADER_SIZE, end);
    this.start = start;
    this.end = end;
    /** What came with it. */
    this.handle = null;
  }

  /** All 64 bits, a BigInt. */
  get a() {
    return BigInt(this.low) | (BigInt(this.high) << 32n);
  }
}

/** The frame's bytes. `a` and `b` may be numbers or BigInts. Throws RangeError for what does not fit. */
function encode({ type, flags = 0, seq = 0, conn = 0, a = 0, b = 0, payload = NOTHING }) {
  if (payload.length > MAX_PAYLOAD) {
    throw new RangeError(`a payload of ${payload.length} bytes, ${MAX_PAYLOAD} are allowed`);
  }
  const data = Buffer.allocUnsafe(HEADER_SIZE + payload.length);
  write(data, 0, type, flags, payload.length, seq, conn, a, b);
  data.set(payload, HEADER_SIZE);
  return data;
}

/** Writes the first 32 bytes of a frame, which are all of it if it has no payload. */
function write(data, at, type, flags, length, seq, conn, a, b) {
  data[at] = type;
  data[at + 1] = flags;
  data.writeUInt16LE(length, at + 2);
  data.writeUInt32LE(seq, at + 4);
  writeNumber(data, at + 8, conn);
  writeNumber(data, at + 16, a);
  writeNumber(data, at + 24, b);
}

/**
 * The frame that begins at `start`, or null if it is not all there; the next one begins at its `end`. Throws AnteroomError (PROTOCOL) as soon as
 * the header shows that the frame cannot be taken; where the next one begins is then unknown.
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
  return data.length < body + length ? null : new Frame(data, start, body + length);
}

function readNumber(data, at) {
  return data.readUInt32LE(at) + data.readUInt32LE(at + 4) * TWO_32;
}

function writeNumber(data, at, value) {
  if (typeof value === 'bigint') {
    data.writeBigUInt64LE(value, at);
  } else {
    data.writeUInt32LE(value % TWO_32, at);
    data.writeUInt32LE(Math.floor(value / TWO_32), at + 4);
  }
}

function badFrame(reason, what) {
  return new AnteroomError('PROTOCOL', `The sidecar sent ${what}.`, { reason });
}

module.exports = {
  VERSION,
  MAGIC,
  HEADER_SIZE,
  MAX_PAYLOAD,
  Type,
  Flag,
  CloseReason,
  NackReason,
  ForgetReason,
  codeName,
  encode,
  write,
  decode,
};
