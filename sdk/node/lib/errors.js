'use strict';
// What can go wrong between a host and its sidecar. Each message says what to do about it.

/** `code` is `ERR_ANTEROOM_` and one of UNREACHABLE, LINK_LOST, PROTOCOL, REFUSED, ENDED, BRIDGE; the README has the table. */
class AnteroomError extends Error {
  constructor(kind, message, { reason, cause } = {}) {
    super(message, cause ? { cause } : undefined);
    this.name = 'AnteroomError';
    this.code = `ERR_ANTEROOM_${kind}`;
    /** The name of the protocol's code, where the sidecar gave one. */
    this.reason = reason;
  }
}

/** Says what an error of connect(2) to the handoff socket means. */
function unreachable(path, errno, cause) {
  return new AnteroomError('UNREACHABLE', unreachableMessage(path, errno), { cause });
}

const NO_PERMISSION_HINT =
  "Name its user in the sidecar's option handoff-allow-uid, or its group in " +
  'handoff-allow-gid. If it is named there, the mode of the socket or of a folder above it is in the way.';

function unreachableMessage(path, errno) {
  switch (errno) {
    case 'ENOENT':
      return `There is no handoff socket at ${path}. Start the sidecar (anteroom serve --handoff ${path}), or name the right path in ANTEROOM_HANDOFF.`;
    case 'EACCES':
      return `This process may not open the handoff socket ${path}. ${NO_PERMISSION_HINT}`;
    case 'ECONNREFUSED':
    case 'EAGAIN':
      return `Nobody answers at the handoff socket ${path}. Is the sidecar running?`;
    default:
      return `Cannot connect to the handoff socket ${path}: ${errno}.`;
  }
}

const REFUSAL_HINTS = {
  BAD_VERSION: 'use the same release of the sidecar and of this package',
  AT_LIMIT: 'the sidecar has as many hosts or pools as it may; stop one, or raise its limit',
  STOPPING: 'the sidecar is stopping; its successor will answer',
};

/** What an ERROR frame means. */
function ended(reason, sentence) {
  return new AnteroomError('ENDED', `${reason}: ${withoutStop(sentence)}.`, { reason });
}

function withoutStop(sentence) {
  return sentence.replace(/\.$/, '');
}

/** What a REFUSE frame means. */
function refused(reason, sentence) {
  const hint = REFUSAL_HINTS[reason];
  return new AnteroomError('REFUSED', `${reason}: ${withoutStop(sentence)}${hint ? ` (${hint})` : ''}.`, { reason });
}

module.exports = { AnteroomError, ended, refused, unreachable };
