'use strict';
// Two servers in a process.

const http = require('node:http');

const anteroom = require('../..');
const { app } = require('./app');

for (const name of ['one', 'two']) anteroom.serve(http.createServer(app), { name, capacity: 1 });
