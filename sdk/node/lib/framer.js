'use strict';
// Where does an HTTP/1 request end?

const CR = 0x0d;
const LF = 0x0a;

/** A head longer than this is not framed. Node's own limit (--max-http-header-size, 16 KiB) ends such a request long before. */
const MAX_HEAD = 1 << 20;

const FIELDS = /\r\n(content-length|transfer-encoding):[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)/gi;
const BARE_LF = /(?<!\r)\n/g;
const ODD_LINES = /(?<!\r)\n|\n[ \t]|\r(?!\n)/;
const CHUNK_SIZE = /^([0-9a-f]{1,13})[ \t]*(?:;|$)/i;

/**
 * Finds the end of each request in a stream of them, while Node's parser judges the same bytes. What it cannot frame without doubt (bare LF, two
 * lengths, an unknown coding …) it calls odd: the rest of the stream then belongs to that request.
 *
 *   head ─► body ─► ended        (begin) ─► head
 *        ├► size ─► data ─► size … ─► trailers ─► ended
 *        └► odd
 */
class Framer {
  #state = 'head';
  #text = ''; // of a head, a chunk's size or a trailer that has begun
  #left = 0; // bytes of a body or chunk

  /** Whether the request has ended. `take` is then not to be called before `begin`. */
  get ended() {
    return this.#state === 'ended';
  }

  get odd() {
    return this.#state === 'odd';
  }

  /** Another request follows. */
  begin() {
    this.#state = 'head';
  }

  /** The request is known to have ended here. */
  end() {
    this.#become('ended');
  }

  /** How many of these bytes belong to the request, empty lines before it included. Fewer than all only if it has ended. */
  take(data) {
    let at = 0;
    while (at < data.length && !this.ended) at = this[`_${this.#state}`](data, at);
    return at;
  }

  _odd(data) {
    return data.length;
  }

  _head(data, at) {
    if (this.#text === '') at = skipEmptyLines(data, at);
    const known = this.#text.length;
    this.#text += data.latin1Slice(at);
    const end = this.#text.indexOf('\r\n\r\n', Math.max(0, known - 3));
    if (end < 0) {
      // A head whose lines end in bare LF has no CRLF CRLF: do not wait for one.
      BARE_LF.lastIndex = known;
      if (this.#text.length > MAX_HEAD || BARE_LF.test(this.#text)) this.#become('odd');
      return data.length;
    }
    const head = this.#text.slice(0, end + 2);
    this.#judge(head);
    return at + end + 4 - known;
  }

  #judge(head) {
    const fields = [...head.matchAll(FIELDS)];
    if (ODD_LINES.test(head) || fields.length > 1) return this.#become('odd');
    if (fields.length === 0) return this.#become('ended');
    const [, name, value] = fields[0];
    if (name.length === 'transfer-encoding'.length) return this.#become(/^chunked$/i.test(value) ? 'size' : 'odd');
    if (!/^\d{1,15}$/.test(value)) return this.#become('odd');
    this.#left = Number(value);
    this.#become(this.#left > 0 ? 'body' : 'ended');
  }

  _body(data, at) {
    const taken = Math.min(this.#left, data.length - at);
    this.#left -= taken;
    if (this.#left === 0) this.#become('ended');
    return at + taken;
  }

  _size(data, at) {
    return this.#line(data, at, (line) => {
      const size = CHUNK_SIZE.exec(line);
      if (!size) return this.#become('odd');
      this.#left = parseInt(size[1], 16) + 2; // and CRLF
      this.#become(this.#left > 2 ? 'data' : 'trailers');
    });
  }

  _data(data, at) {
    const taken = Math.min(this.#left, data.length - at);
    this.#left -= taken;
    if (this.#left === 0) this.#become('size');
    return at + taken;
  }

  _trailers(data, at) {
    return this.#line(data, at, (line) => this.#become(line === '' ? 'ended' : 'trailers'));
  }

  /** Takes bytes up to the end of a line, CRLF, and then gives it away without that. */
  #line(data, at, give) {
    const end = data.indexOf(LF, at);
    this.#text += data.latin1Slice(at, end < 0 ? data.length : end + 1);
    if (end < 0) {
      if (this.#text.length > MAX_HEAD) this.#become('odd');
      return data.length;
    }
    if (this.#text.endsWith('\r\n')) {
      give(this.#text.slice(0, -2));
    } else {
      this.#become('odd');
    }
    return end + 1;
  }

  #become(state) {
    this.#state = state;
    this.#text = '';
  }
}

/** Where something else than CR and LF begins. */
function skipEmptyLines(data, at = 0) {
  while (at < data.length && (data[at] === CR || data[at] === LF)) at++;
  return at;
}

module.exports = { Framer, skipEmptyLines };
