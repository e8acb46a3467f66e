'use strict';
// An app that throws, and lives on.

const http = require('node:http');

const anteroom = require('../..');

process.on('uncaughtException', () => {});

const routes = {
  '/busy': () => {
    for (const end = Date.now() + 200; Date.now() < end; );
  },
  '/throw': () => {
    throw new Error('of the app');
  },
};

anteroom.serve(
  http.createServer((request, response) => {
    routes[request.url]?.();
    response.end(request.url);
  }),
);
