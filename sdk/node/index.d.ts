/// <reference types="node" />

import { EventEmitter } from 'node:events';
import { RequestListener, Server } from 'node:http';

/** Where the sidecar is, and as what this process attaches. */
export interface HostOptions {
  /** The sidecar's handoff socket, with or without `unix://`. Default: ANTEROOM_HANDOFF, else /run/anteroom/handoff.sock. */
  path?: string;
  /** How operators see this host: 1 to 64 of A-Z a-z 0-9 . _ : - Default: ANTEROOM_NAME, else `node-` and the process id. */
  name?: string;
  /** The pool to serve; '' is a private one that ends with this host. Default: ANTEROOM_POOL, else `default`. */
  pool?: string;
  /** How many leases at once, 1 to 4096. Default: ANTEROOM_CAPACITY, else 1024. */
  capacity?: number;
  /** How descriptors get into this process: `pipe`, `bridge`, or `auto`, the first of them that works. Default: ANTEROOM_ROAD, else `auto`. */
  road?: 'auto' | 'pipe' | 'bridge';
  /** The anteroom program, for the road `bridge`. Default: ANTEROOM_BRIDGE, else `anteroom` in PATH. */
  bridge?: string;
}

export interface ServeOptions extends HostOptions {
  /** Idle connections of which the socket is kept, so that the next request finds it. 0: none. Default: 1024. */
  cache?: number;
  /** Milliseconds an idle connection is kept open, by the sidecar. 0, the default: as long as the pool's default says. */
  keepAliveTimeout?: number;
  /** Milliseconds that `close` waits for what is being served, then it breaks that off. Default: 30000. */
  drainTimeout?: number;
  /** The signals that close the server, and then end the process unless somebody else listens for them. Default: SIGTERM and SIGINT. */
  signals?: NodeJS.Signals[];
  /** Where to say that the sidecar cannot be reached, and that it is back. Default: standard error. */
  log?: (text: string) => void;
}

/** A server behind the sidecar. */
export interface Service {
  readonly server: Server;
  readonly host: Host;
  /**
   * Leave: what has been lent is answered and put back; then the server emits 'close' and the promise is resolved. Never rejects. The server's own
   * `close` does the same.
   */
  close(): Promise<void>;
}

/**
 * Serves the requests that the sidecar lends to this process, with an http.Server or a function such as an Express app. It attaches soon after, when the
 * server emits 'listening', and attaches again whenever the sidecar was away. Throws TypeError for servers of TLS and HTTP/2, and TypeError or
 * RangeError for options that are not allowed.
 */
export function serve(server: Server | RequestListener, options?: ServeOptions): Service;

/** Attaches to a sidecar, for a host of your own. Throws TypeError or RangeError for options that are not allowed. */
export function attach(options?: HostOptions & { features?: Feature[] }): Host;

/** `cache`: connections that were put come back without a handle. `track`: `forget` tells of all that were put. `address`: leases have a `peer`. */
export type Feature = 'cache' | 'track' | 'address';

/** What the sidecar grants a host. */
export interface Welcome {
  host: number;
  pool: string;
  capacity: number;
  features: string[];
  listeners: string[];
  keep_alive_timeout_ms: number;
  /** Different for each life of the sidecar. */
  epoch: string;
}

/** A process that borrows connections from a sidecar. */
export class Host extends EventEmitter {
  /** What the sidecar has granted, null while not attached. */
  readonly welcome: Welcome | null;
  /** The handoff socket. */
  readonly path: string;
  readonly capacity: number;
  has(feature: Feature): boolean;
  /** Take up to `capacity` leases at once from now on, 0 to 4096; 0 pauses this host. */
  setCapacity(capacity: number): void;
  /** Say that the descriptor of an idle connection is no longer held here. */
  dropped(conn: number): void;
  /** Leave: resolved when the leases have been answered, or after `timeout` ms (default 30000) without them. Never rejects. */
  close(timeout?: number): Promise<void>;

  on(event: 'attach', listener: (welcome: Welcome) => void): this;
  /** `retryIn`: milliseconds until the next attempt; undefined: there will be none. */
  on(event: 'detach', listener: (error: AnteroomError, retryIn?: number) => void): this;
  on(event: 'lease', listener: (lease: Lease) => void): this;
  /** The connection is no longer this host's: destroy its socket. `lease` is set if it was leased; it has been taken back. */
  on(event: 'forget', listener: (conn: number, reason: ForgetReason, lease?: Lease) => void): this;
  /** This process has no descriptor left: a lease was refused. Drop idle connections (`dropped`), and it comes again. */
  on(event: 'shortage', listener: () => void): this;
  on(event: 'close', listener: () => void): this;
}

/** A connection with a request on it. Answer it once. The answers never throw; they return whether the sidecar still waited for one. */
export class Lease {
  private constructor();
  /** The connection's id, the same for all of its leases. */
  readonly conn: number;
  readonly seq: number;
  readonly flags: number;
  /** Bytes of the request's head, 0 if not known. */
  readonly headLength: number;
  /** Bytes of the whole request, 0 if not all of it has arrived. */
  readonly requestLength: number;
  /** Milliseconds the request waited for this host. */
  readonly waited: number;
  /** The client's address if it is not the socket's, as `host:port`. */
  readonly peer: string | undefined;
  /** Whether this is the connection's first request. */
  readonly fresh: boolean;
  /** Whether the answer must say `Connection: close`. */
  readonly last: boolean;
  /** Whether the client has sent nothing within its time: answer 408 and close. */
  readonly silent: boolean;
  /** Whether the lease was answered or taken back, or its link is gone. */
  readonly over: boolean;
  /** For `new net.Socket({ handle })`, from then on yours; null for a connection that this host holds already (feature `cache`). */
  takeHandle(): unknown;
  /** The response is sent and nothing is left unread: the connection is idle for up to `keepAlive` ms (0: the pool's time). */
  put(options?: { keepAlive?: number; requests?: number }): boolean;
  /** End the connection. */
  close(options?: { reason?: CloseReason; requests?: number }): boolean;
  /** Keep the connection for good. */
  detach(): boolean;
  /** Not now, or not here. */
  nack(reason?: NackReason): boolean;
}

/** `code` is `ERR_ANTEROOM_` and one of UNREACHABLE, LINK_LOST, PROTOCOL, REFUSED, ENDED, BRIDGE. */
export class AnteroomError extends Error {
  private constructor();
  readonly code: string;
  /** The name of the protocol's code, where the sidecar gave one. */
  readonly reason: string | undefined;
}

export const CloseReason: { readonly DONE: 0; readonly CLIENT: 1; readonly TOO_SLOW: 2; readonly APP: 3; readonly OVERLOAD: 4 };
export type CloseReason = (typeof CloseReason)[keyof typeof CloseReason];

export const NackReason: { readonly NO_DESCRIPTOR: 1; readonly UNKNOWN: 2; readonly OVERLOAD: 3 };
export type NackReason = (typeof NackReason)[keyof typeof NackReason];

export const ForgetReason: {
  readonly MOVED: 1;
  readonly EXPIRED: 2;
  readonly HUNG_UP: 3;
  readonly EVICTED: 4;
  readonly OPERATOR: 5;
  readonly STOPPED: 6;
  readonly FAILED: 7;
};
export type ForgetReason = (typeof ForgetReason)[keyof typeof ForgetReason];
