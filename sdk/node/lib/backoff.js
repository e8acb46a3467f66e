'use strict';
// How long to wait before the next attempt.

/**
 * Delays in milliseconds that double from `first` to `most`. Each is shortened by up to a half, at random, so that hosts which lost their
 * sidecar together do not come back together.
 */
class Backoff {
  #first;
  #most;
  #next;

  constructor(first = 50, most = 2000) {
    this.#first = first;
    this.#most = most;
    this.#next = first;
  }

  delay() {
    const now = this.#next;
    this.#next = Math.min(2 * now, this.#most);
    return now * (0.5 + Math.random() / 2);
  }

  reset() {
    this.#next = this.#first;
  }
}

module.exports = { Backoff };
