/* anteroom.h: serve requests on connections that a sidecar keeps.
 *
 * Anteroom is a sidecar that keeps clients' connections. A process that serves requests, a host, attaches to it over a Unix socket and is
 * lent a connection for each request: it reads the request from the client's socket, writes the response to it, and puts the connection
 * back. This library is a host's end of that protocol (handoff/PROTOCOL.md), version 1.
 *
 *     anteroom *host = anteroom_new(NULL);
 *     anteroom_lease lease;
 *     anteroom_attach(host, 5000);
 *     while (anteroom_next(host, &lease, -1) == 1) {
 *         serve(lease.fd);
 *         anteroom_put(host, &lease, 0, 1);
 *     }
 *     anteroom_free(host);
 *
 * Link with -lanteroom -pthread. Linux, C11 and POSIX threads; no other dependency.
 *
 * Threads: every function may be called from any thread; a lease is for one thread at a time. The library runs one thread of its own, which
 * reads from the sidecar. It blocks all signals. Fork before anteroom_attach, not after.
 *
 * The client's socket: its open file description is shared with the sidecar. It is non-blocking, and must stay so (never clear O_NONBLOCK).
 * Closing the descriptor ends nothing, and shutdown(2) ends the connection for everybody. To end it, anteroom_close. The descriptor is
 * the library's, which closes it or keeps it for the next lease; only anteroom_detach makes it the caller's.
 */
#ifndef ANTEROOM_H
#define ANTEROOM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ANTEROOM_VERSION "0.1.0"

/* A host: this process's attachment to a sidecar. It is made anew, with growing delays up to 2 s, whenever it is lost. */
typedef struct anteroom anteroom;

/* What a host is told when it is made. All zero is a good beginning. */
typedef struct {
    const char *path; /* the handoff socket, with or without unix://; NULL: ANTEROOM_HANDOFF, else /run/anteroom/handoff.sock */
    const char *pool; /* the pool to serve; NULL: ANTEROOM_POOL, else "default"; "": a private one, which ends with the host */
    const char *name; /* what operators see; NULL: ANTEROOM_NAME, else "c-" and the process id */
    int capacity;     /* leases at once, 1 to 4096; 0: ANTEROOM_CAPACITY, else 1 */
    int cache;        /* descriptors of idle connections that are kept, up to 65536; 0: 256; negative: none. When the process is out of
                       * descriptors, some are let go of, which the log says once */
    void (*log)(void *data, const char *line); /* told when the link comes or goes; NULL: standard error. From the library's thread */
    void *log_data;
} anteroom_options;

/* Bits of anteroom_lease.flags. */
#define ANTEROOM_FRESH 0x02u /* the first request of this connection */
#define ANTEROOM_LAST 0x04u  /* answer with "Connection: close", then anteroom_close: there is no room to keep one more */

/* A connection that is lent to this host, because a request has arrived on it. Answer it once, with one of the six functions below. */
typedef struct {
    int fd;                  /* the client's socket; -1 once answered */
    unsigned flags;
    uint64_t conn;           /* the connection's number, the same for all of its leases */
    uint32_t seq;            /* the number of this lease of it */
    uint32_t head_length;    /* bytes of the request's head, 0 if not known */
    uint32_t request_length; /* bytes of the whole request, 0 if not all of it has arrived */
    uint64_t waited_us;      /* microseconds that the request waited */
    char peer[64];           /* the client's address ("192.0.2.1:80", "[2001:db8::1]:80") if a load balancer has told it, else "" */
    unsigned life;           /* for the library */
} anteroom_lease;

/* Why a connection is closed. */
enum anteroom_close_reason {
    ANTEROOM_DONE = 0,     /* the response ended it */
    ANTEROOM_CLIENT = 1,   /* the client went or sent nonsense */
    ANTEROOM_TOO_SLOW = 2, /* the client was too slow */
    ANTEROOM_APP = 3,      /* the app failed */
    ANTEROOM_OVERLOAD = 4
};

/* Makes a host. `options` may be NULL, and is copied. Returns NULL with errno EINVAL for what the protocol does not allow (after saying to
 * `log` what that is), ENAMETOOLONG, ENOMEM, EMFILE. */
anteroom *anteroom_new(const anteroom_options *options);

/* Attaches as soon as there is a sidecar, and stays attached. Waits for that for `timeout_ms` milliseconds (0: not at all, negative: for
 * ever). Returns 0, or -1 with errno ETIMEDOUT (it goes on trying; anteroom_trouble says why), EAGAIN (no thread can be had). */
int anteroom_attach(anteroom *host, int timeout_ms);

/* Waits for a lease for `timeout_ms` milliseconds (negative: for ever). Returns 1 with a lease, 0 after the timeout, and -1 with errno
 * ESHUTDOWN when no lease will come any more: after anteroom_drain, once the last was handed out. */
int anteroom_next(anteroom *host, anteroom_lease *lease, int timeout_ms);

/* The answers. Each returns 1 if the sidecar still waited for it, 0 if the lease was taken back, answered before, or its link is gone. The
 * lease is over in any case, and never again to be used. */

/* The connection is idle: the response is written, the request is read to its end, and nothing was read beyond it. It is kept for
 * `keep_alive_ms` milliseconds, up to a week (0: the pool's time). `requests`: how many were served in this lease. */
int anteroom_put(anteroom *host, anteroom_lease *lease, uint64_t keep_alive_ms, uint64_t requests);

/* Ends the connection, once the client has what was written. `reason`: enum anteroom_close_reason. */
int anteroom_close(anteroom *host, anteroom_lease *lease, int reason, uint64_t requests);

/* Keeps the connection for good, as for a WebSocket: the sidecar lets go of it. Stores the descriptor, then the caller's, in `*fd`, also when
 * it returns 0; -1 if the lease was answered before. */
int anteroom_detach(anteroom *host, anteroom_lease *lease, int *fd);

/* Not now: the connection is leased again, to another host where there is one. Only if nothing was read. */
int anteroom_nack(anteroom *host, anteroom_lease *lease);

/* Leaves the rest of the response to the sidecar: `length` bytes (at least 1) of `file` from `offset` on, a regular file or memfd that has
 * them, or a pipe that holds them. `file` stays the caller's. Afterwards the connection is as after anteroom_put with `keep_alive_ms`, or,
 * with `then_close`, is closed. Only where anteroom_may_finish: else it returns -1 with errno EOPNOTSUPP, and the lease goes on. */
int anteroom_finish(anteroom *host, anteroom_lease *lease, int file, uint64_t offset, uint64_t length, uint64_t keep_alive_ms, int then_close);

/* Whether anteroom_finish may be used: 1 or 0. */
int anteroom_may_finish(anteroom *host);

/* Takes up to `capacity` leases at once from now on, 0 to 4096; 0 pauses. Returns 0, or -1 with errno EINVAL. */
int anteroom_capacity(anteroom *host, int capacity);

/* Leaves: no new leases come, and once those that are out are answered the link ends. Returns at once. May be called in a signal handler. */
void anteroom_drain(anteroom *host);

/* After anteroom_drain: waits for the end of the link for `timeout_ms` milliseconds (negative: for ever). Returns 0, or -1 with ETIMEDOUT. */
int anteroom_join(anteroom *host, int timeout_ms);

/* Copies what last prevented or ended the link, a sentence with what to do about it, to `text` (at most `size` bytes with its NUL). */
void anteroom_trouble(anteroom *host, char *text, size_t size);

/* Hangs up and lets go of everything. No other call may be under way and no lease may be out. NULL is allowed. */
void anteroom_free(anteroom *host);

#ifdef __cplusplus
}
#endif
#endif
