'use strict';

const cluster = require('node:cluster');

if (cluster.isPrimary) {
  cluster.fork({ ANTEROOM_NAME: 'worker-1' });
  cluster.fork({ ANTEROOM_NAME: 'worker-2' });
  process.once('SIGTERM', () => cluster.disconnect());
} else {
  require('./main');
}
