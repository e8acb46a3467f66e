'use strict';

const http = require('node:http');

const anteroom = require('../..');
const { app, upgrade } = require('./app');

anteroom.serve(http.createServer(app).on('upgrade', upgrade));
