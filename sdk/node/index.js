'use strict';

const { AnteroomError } = require('./lib/errors');
const { CloseReason, ForgetReason, NackReason } = require('./lib/frame');
const { Host, attach } = require('./lib/host');
const { Lease } = require('./lib/lease');
const { serve } = require('./lib/serve');

module.exports = { AnteroomError, CloseReason, ForgetReason, Host, Lease, NackReason, attach, serve };
