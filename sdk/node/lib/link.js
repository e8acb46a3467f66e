'use strict';
// Which of the two roads to the sidecar this process takes.

const { BridgeLink } = require('./bridge');
const { AnteroomError } = require('./errors');
const { PipeLink, findPipe } = require('./pipe');

/** Returns a function that opens a link: `open(path, receiver)`. `road` is auto, pipe or bridge, `command` the program for a bridge. */
function chooseRoad(road, command) {
  const makePipe = road === 'bridge' ? null : findPipe();
  if (makePipe) return (path, receiver) => new PipeLink(makePipe, path, receiver);
  if (road === 'pipe') {
    throw new AnteroomError('BRIDGE', "This Node does not lend its IPC pipe (process.binding('pipe_wrap')). Leave the option road at 'auto'.");
  }
  return (path, receiver) => new BridgeLink(command, path, receiver);
}

module.exports = { chooseRoad };
