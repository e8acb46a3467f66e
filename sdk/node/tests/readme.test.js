'use strict';
// The README's programs do what it says.

const assert = require('node:assert/strict');
const { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const test = require('node:test');

const { Sidecar } = require('./sidecar');

const SDK = path.join(__dirname, '..');
const PROGRAMS = [...readFileSync(path.join(SDK, 'README.md'), 'utf8').matchAll(/^```js\n(.*?)^```/gms)].map(([, text]) => text);

for (const [number, text] of PROGRAMS.entries()) {
  test(`program ${number + 1}`, { timeout: 30_000 }, async (t) => {
    const folder = mkdtempSync(path.join(tmpdir(), 'anteroom-'));
    t.after(() => rmSync(folder, { recursive: true }));
    mkdirSync(path.join(folder, 'node_modules'));
    symlinkSync(SDK, path.join(folder, 'node_modules/anteroom'));
    const script = path.join(folder, 'hello.js');
    writeFileSync(script, text);
    const sidecar = await new Sidecar(t).start();
    await sidecar.app('readme', {}, script);
    for (let i = 0; i < 2; i++) assert.equal(await (await fetch(`http://127.0.0.1:${sidecar.port}/`)).text(), 'hello\n');
  });
}

test('there are two programs', () => assert.equal(PROGRAMS.length, 2));
