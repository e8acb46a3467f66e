'use strict';
// The app that every SDK serves for the conformance kit.

const LETTERS = Buffer.from(Array.from({ length: 26 << 10 }, (_, i) => 0x61 + (i % 26)));
const MAX_NUMBER = 100_000_000;

const routes = {
  '/': (request, response) => reply(response, 'hello from node\n'),
  '/echo': echo,
  '/bytes': (request, response, n) => {
    response.setHeader('Content-Length', n('n'));
    sendLetters(request, response, n('n'));
  },
  '/stream': (request, response, n) => sendLetters(request, response, n('n')),
  '/status': status,
  '/sleep': (request, response, n) => setTimeout(reply, n('ms'), response, 'slept\n'),
  '/close': (request, response) => reply(response.setHeader('Connection', 'close'), 'bye\n'),
  '/peer': (request, response) => reply(response, `${request.socket.remoteAddress}\n`),
  '/pid': (request, response) => reply(response, `${process.pid}\n`),
  '/crash': () => process.reallyExit(1),
};
routes['/file'] = routes['/bytes'];

function app(request, response) {
  const url = new URL(request.url, 'http://app');
  const said = request.headers['x-echo'];
  if (said !== undefined) response.setHeader('X-Echo', said);
  response.setHeader('Content-Type', 'text/plain');
  const route = url.pathname === '/echo' && !['POST', 'PUT'].includes(request.method) ? undefined : routes[url.pathname];
  try {
    if (route) return route(request, response, (name) => number(url.searchParams, name));
    response.statusCode = 404;
    reply(response, 'not found\n');
  } catch (error) {
    response.statusCode = 400;
    reply(response, `${error.message}\n`);
  }
}

function number(query, name) {
  const text = query.get(name) ?? '';
  if (!/^\d{1,9}$/.test(text) || Number(text) > MAX_NUMBER) throw new RangeError(`${name} must be 0 to ${MAX_NUMBER}`);
  return Number(text);
}

function reply(response, body) {
  response.setHeader('Content-Length', Buffer.byteLength(body));
  response.end(body);
}

function echo(request, response) {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => reply(response, Buffer.concat(chunks)));
}

function status(request, response, n) {
  response.statusCode = n('code');
  if (response.statusCode === 204 || response.statusCode === 304) {
    response.end();
  } else {
    reply(response, `${response.statusCode}\n`);
  }
}

/** Writes `left` letters, no faster than the client takes them. */
function sendLetters(request, response, left, at = 0) {
  if (request.method === 'HEAD') return response.end();
  while (left > 0) {
    const begin = at % 26;
    const piece = LETTERS.subarray(begin, Math.min(LETTERS.length, begin + left));
    at += piece.length;
    left -= piece.length;
    if (!response.write(piece) && left > 0) {
      response.once('drain', () => sendLetters(request, response, left, at));
      return;
    }
  }
  response.end();
}

/** The listener for 'upgrade'. */
function upgrade(request, socket, head) {
  if (request.headers.upgrade.toLowerCase() !== 'echo' || new URL(request.url, 'http://app').pathname !== '/upgrade') {
    socket.end('HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
    return;
  }
  const said = request.headers['x-echo'];
  const field = said === undefined ? '' : `X-Echo: ${said}\r\n`;
  socket.on('error', () => {}); // the client has gone
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n${field}\r\n`);
  socket.write(head);
  socket.pipe(socket);
}

module.exports = { app, upgrade };
