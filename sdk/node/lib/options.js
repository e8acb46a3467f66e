'use strict';
// The options of attach and serve, checked.

const { version } = require('../package.json');

const DEFAULT_PATH = '/run/anteroom/handoff.sock';
const MAX_CAPACITY = 4096;
const NAME = /^[A-Za-z0-9._:-]{1,64}$/;
const ROADS = ['auto', 'pipe', 'bridge'];
const COMMON = ['path', 'pool', 'name', 'capacity', 'road', 'bridge'];

/** The options of `attach`, and those of `serve`. */
const ATTACH_OPTIONS = [...COMMON, 'features'];
const SERVE_OPTIONS = [...COMMON, 'cache', 'keepAliveTimeout', 'drainTimeout', 'signals', 'log'];

/** Throws TypeError if an option is none of those that are known. */
function checkKnown(options, known) {
  const unknown = Object.keys(options).find((key) => !known.includes(key));
  if (unknown === undefined) return;
  const meant = known.find((key) => key.toLowerCase() === unknown.toLowerCase());
  throw new TypeError(`Unknown option ${unknown}${meant ? `, did you mean ${meant}?` : `. There are ${known.join(', ')}.`}`);
}

/** What attach and serve were given, completed from the environment and the defaults. Throws TypeError or RangeError for what the protocol does not allow. */
function complete(options, environment = process.env) {
  checkKnown(options, ATTACH_OPTIONS);
  const given = (key, variable) => options[key] ?? (environment[variable] || undefined);
  return {
    path: socketPath(given('path', 'ANTEROOM_HANDOFF') ?? DEFAULT_PATH),
    name: checkName(given('name', 'ANTEROOM_NAME') ?? `node-${process.pid}`, 'name'),
    pool: checkPool(given('pool', 'ANTEROOM_POOL') ?? 'default'),
    capacity: checkNumber(Number(given('capacity', 'ANTEROOM_CAPACITY') ?? 1024), 'capacity', 1, MAX_CAPACITY),
    road: checkRoad(given('road', 'ANTEROOM_ROAD') ?? 'auto'),
    bridge: given('bridge', 'ANTEROOM_BRIDGE') ?? 'anteroom',
    features: options.features ?? [],
    agent: `anteroom-node/${version}`,
  };
}

/** The path of a Unix socket's address such as unix:///run/anteroom/handoff.sock; anything else is a path already. */
function socketPath(address) {
  return address.replace(/^unix:\/\/(?=\/)/, '');
}

function checkName(name, what) {
  if (!NAME.test(name)) throw new TypeError(`The ${what} ${JSON.stringify(name)} must be 1 to 64 of A-Z a-z 0-9 . _ : -`);
  return name;
}

function checkPool(pool) {
  return pool === '' ? pool : checkName(pool, 'pool');
}

function checkRoad(road) {
  if (!ROADS.includes(road)) throw new TypeError(`The road ${JSON.stringify(road)} must be one of ${ROADS.join(', ')}`);
  return road;
}

function checkNumber(number, what, least, most) {
  if (!Number.isInteger(number) || number < least || number > most) {
    throw new RangeError(`The ${what} ${number} must be a whole number from ${least} to ${most}`);
  }
  return number;
}

module.exports = { COMMON, MAX_CAPACITY, SERVE_OPTIONS, checkKnown, checkNumber, complete };
