/* anteroom.c: see anteroom.h. The specification is handoff/PROTOCOL.md.
 *
 * In order: frames, JSON, the table of connections, sending, what frames mean, the thread that reads, the public functions.
 */
#define _GNU_SOURCE
#include "anteroom.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_PATH "/run/anteroom/handoff.sock"
#define DEFAULT_CACHE 256
#define MAX_CACHE 65536
#define LEAST_DROPPED 16 /* kept connections that are let go of at once when the process is out of descriptors: each NACK delays a request */
#define MAX_CAPACITY 4096
#define MAX_NAME 64
#define MAX_KEEP_ALIVE_MS UINT64_C(604800000)
#define WELCOME_TIMEOUT_MS 5000
#define SEND_TIMEOUT_MS 10000 /* that a sidecar may take to make room for a frame */
#define STABLE_MS 5000        /* a link that lasted so long is looked for again without much delay */
#define FIRST_PAUSE_MS 50
#define LAST_PAUSE_MS 2000

/* Frames. */

enum { HEADER = 32, MAX_PAYLOAD = 8192, PROTOCOL_VERSION = 1 };

enum type {
    HELLO = 0x01, PUT = 0x02, CLOSE = 0x03, DETACH = 0x04, NACK = 0x05, FINISH = 0x09, CAPACITY = 0x0a, DROPPED = 0x0b, DRAIN = 0x0c, PONG = 0x0d,
    WELCOME = 0x21, REFUSE = 0x22, LEASE = 0x23, FORGET = 0x24, DRAINING = 0x28, PING = 0x29, ERROR = 0x2a
};

enum { FLAG_FD = 0x01, FLAG_CLOSE = 0x20 };
enum { NACK_NO_DESCRIPTOR = 1, NACK_UNKNOWN = 2, NACK_OVERLOAD = 3 };
enum { BAD_FRAME = 1, TOO_LONG = 7 };

struct frame {
    uint8_t type, flags;
    uint16_t length; /* of the payload */
    uint32_t seq;
    uint64_t conn, a, b;
    const char *payload; /* not ended by a NUL */
};

static void put_number(uint8_t *to, uint64_t number, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = (uint8_t)(number >> 8 * i);
}

static uint64_t get_number(const uint8_t *from, int bytes)
{
    uint64_t number = 0;
    for (int i = 0; i < bytes; i++)
        number |= (uint64_t)from[i] << 8 * i;
    return number;
}

/* Writes the frame to `to`, which has room for HEADER + f->length bytes. Returns its length. */
static size_t encode(uint8_t *to, const struct frame *f)
{
    to[0] = f->type;
    to[1] = f->flags;
    put_number(to + 2, f->length, 2);
    put_number(to + 4, f->seq, 4);
    put_number(to + 8, f->conn, 8);
    put_number(to + 16, f->a, 8);
    put_number(to + 24, f->b, 8);
    if (f->length > 0)
        memcpy(to + HEADER, f->payload, f->length);
    return HEADER + (size_t)f->length;
}

/* Reads the frame at `from`. Returns its length, 0 if it is not all there, or the negative code of what is wrong with it. */
static int decode(const uint8_t *from, size_t size, struct frame *f)
{
    if (size < HEADER)
        return 0;
    f->type = from[0];
    f->flags = from[1];
    f->length = (uint16_t)get_number(from + 2, 2);
    f->seq = (uint32_t)get_number(from + 4, 4);
    f->conn = get_number(from + 8, 8);
    f->a = get_number(from + 16, 8);
    f->b = get_number(from + 24, 8);
    f->payload = (const char *)from + HEADER;
    if (f->type >= 0x80)
        return -BAD_FRAME;
    if (f->length > MAX_PAYLOAD)
        return -TOO_LONG;
    return size < HEADER + (size_t)f->length ? 0 : HEADER + f->length;
}

/* JSON: as much as it takes to find a string in an object of which the rest is of no interest. */

struct text {
    const char *at, *end;
};

static void skip_space(struct text *t)
{
    while (t->at < t->end && strchr(" \t\r\n", *t->at) != NULL && *t->at != '\0')
        t->at++;
}

static bool skip_char(struct text *t, char c)
{
    skip_space(t);
    if (t->at == t->end || *t->at != c)
        return false;
    t->at++;
    return true;
}

/* Reads a string. What is between its quotes, escapes and all, goes to `inside`. */
static bool read_string(struct text *t, struct text *inside)
{
    if (!skip_char(t, '"'))
        return false;
    inside->at = t->at;
    while (t->at < t->end && *t->at != '"')
        t->at += *t->at == '\\' ? 2 : 1;
    if (t->at >= t->end)
        return false;
    inside->end = t->at++;
    return true;
}

/* Reads any value. Depth is counted, not recursed. */
static bool skip_value(struct text *t)
{
    struct text inside;
    int depth = 0;
    do {
        skip_space(t);
        if (t->at == t->end)
            return false;
        char c = *t->at;
        if (c == '"') {
            if (!read_string(t, &inside))
                return false;
            continue;
        }
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        t->at++;
        while (depth == 0 && c != '}' && c != ']' && t->at < t->end && strchr(",]} \t\r\n", *t->at) == NULL)
            t->at++; /* the rest of a number or a word */
    } while (depth > 0);
    return depth == 0;
}

static bool same(const struct text *t, const char *word)
{
    size_t length = strlen(word);
    return (size_t)(t->end - t->at) == length && memcmp(t->at, word, length) == 0;
}

/* Finds a member of the object that is the payload. */
static bool find_member(const struct frame *f, const char *name, struct text *value)
{
    struct text t = {f->payload, f->payload + f->length}, key;
    if (!skip_char(&t, '{'))
        return false;
    do {
        if (!read_string(&t, &key) || !skip_char(&t, ':'))
            return false;
        skip_space(&t);
        value->at = t.at;
        if (!skip_value(&t))
            return false;
        value->end = t.at;
        if (same(&key, name))
            return true;
    } while (skip_char(&t, ','));
    return false;
}

static bool list_has(struct text list, const char *word)
{
    struct text each;
    if (!skip_char(&list, '['))
        return false;
    do {
        if (!read_string(&list, &each))
            return false;
        if (same(&each, word))
            return true;
    } while (skip_char(&list, ','));
    return false;
}

/* The table of connections. */

enum state { IDLE, LEASED };

/* A connection of which this host holds the descriptor. */
struct entry {
    uint64_t conn, a, b;
    uint32_t seq;
    unsigned life;
    int fd;
    uint8_t flags;
    enum state state;
    bool queued; /* leased, and not handed out yet */
    bool tabled; /* in the table; a queued one is not after the end of its link */
    char peer[64];
    struct entry *in_bucket, *in_queue, *newer, *older;
};

enum { BUCKETS = 4096 };

struct anteroom {
    char path[sizeof((struct sockaddr_un *)0)->sun_path], pool[MAX_NAME + 1], name[MAX_NAME + 1];
    int cache;
    void (*log)(void *, const char *);
    void *log_data;

    int bell; /* an eventfd: drain or free was called */
    atomic_bool asked_to_drain, asked_to_end;
    pthread_t thread;

    pthread_mutex_t lock; /* what follows, down to `sending` */
    pthread_cond_t changed;
    bool started, ended; /* the thread */
    int capacity;
    char trouble[512], complaint[512];
    unsigned life; /* the number of the link, so that an answer does not go to the sidecar's successor */
    bool attached, leaving, draining, drained, may_cache, may_finish;
    struct entry *buckets[BUCKETS];
    struct entry *oldest, *newest; /* idle ones */
    int idle;
    struct entry *first, **last; /* the queue */

    pthread_mutex_t sending; /* writes to the link, and its end */
    int link;
    unsigned link_life;

    /* The thread's own. */
    uint8_t *unread;
    size_t unread_size;
    int fds[8]; /* arrived, not yet claimed by a frame */
    int fd_count;
    int lost; /* descriptors for which there was no room in this process */
    bool told_of_shortage;
};

enum { UNREAD_ROOM = 65536 };

static struct entry **find(anteroom *h, uint64_t conn)
{
    struct entry **e = &h->buckets[conn % BUCKETS];
    while (*e != NULL && (*e)->conn != conn)
        e = &(*e)->in_bucket;
    return e;
}

static void leave_idle(anteroom *h, struct entry *e)
{
    *(e->newer ? &e->newer->older : &h->newest) = e->older;
    *(e->older ? &e->older->newer : &h->oldest) = e->newer;
    h->idle--;
}

static void enter_idle(anteroom *h, struct entry *e)
{
    e->state = IDLE;
    e->older = h->newest;
    e->newer = NULL;
    *(h->newest ? &h->newest->newer : &h->oldest) = e;
    h->newest = e;
    h->idle++;
}

/* Takes an entry out of the table. Whoever has it then owns it. */
static struct entry *take_out(anteroom *h, struct entry **at)
{
    struct entry *e = *at;
    *at = e->in_bucket;
    if (e->state == IDLE)
        leave_idle(h, e);
    e->tabled = false;
    return e;
}

static void destroy(struct entry *e)
{
    if (e->fd >= 0)
        close(e->fd);
    free(e);
}

/* Cuts a thread off from a connection that was taken back while it works on it: its descriptor becomes that of one whose peer has hung up.
 * Closing it instead would let the thread write to whoever gets the number next. */
static void sever(int fd)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return; /* the sidecar closes it all the same */
    dup3(pair[0], fd, O_CLOEXEC);
    close(pair[0]);
    close(pair[1]);
}

/* The end of a link: idle connections are let go of, leases can still be served. */
static void empty_table(anteroom *h)
{
    for (int i = 0; i < BUCKETS; i++)
        while (h->buckets[i] != NULL) {
            struct entry *e = take_out(h, &h->buckets[i]);
            if (e->state == IDLE)
                destroy(e);
            else if (!e->queued)
                free(e); /* its descriptor is with the lease */
        }
}

/* Sending. */

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bool send_some(int link, const uint8_t **data, size_t *size, int fd)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec part = {(void *)*data, *size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof(control.space);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(int));
    }
    ssize_t sent = sendmsg(link, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EAGAIN) {
        struct pollfd room = {.fd = link, .events = POLLOUT};
        return poll(&room, 1, SEND_TIMEOUT_MS) != 0;
    }
    if (sent < 0)
        return errno == EINTR;
    *data += sent;
    *size -= (size_t)sent;
    return true;
}

/* Sends one frame over the link of that life, with `fd` if it is one. Returns false if there is no such link any more. */
static bool send_frame(anteroom *h, unsigned life, struct frame f, int fd)
{
    uint8_t buffer[HEADER + 1024];
    if (f.length > sizeof(buffer) - HEADER)
        return false;
    if (fd >= 0)
        f.flags |= FLAG_FD;
    const uint8_t *data = buffer;
    size_t size = encode(buffer, &f), whole = size;
    pthread_mutex_lock(&h->sending);
    bool good = h->link >= 0 && h->link_life == life;
    while (good && size > 0)
        good = send_some(h->link, &data, &size, size == whole ? fd : -1);
    if (!good && h->link >= 0 && h->link_life == life)
        shutdown(h->link, SHUT_RDWR); /* which the thread that reads finds out */
    pthread_mutex_unlock(&h->sending);
    return good;
}

static void complain(anteroom *h, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Notes what prevents or has ended the link. */
static void complain(anteroom *h, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    pthread_mutex_lock(&h->lock);
    vsnprintf(h->trouble, sizeof(h->trouble), format, values);
    pthread_mutex_unlock(&h->lock);
    va_end(values);
}

/* Says it to the log, once for each kind of trouble: a sidecar that is away is looked for often. */
static void tell_trouble(anteroom *h)
{
    char line[sizeof(h->trouble) + 64];
    pthread_mutex_lock(&h->lock);
    bool known = strcmp(h->trouble, h->complaint) == 0;
    memcpy(h->complaint, h->trouble, sizeof(h->complaint));
    pthread_mutex_unlock(&h->lock);
    snprintf(line, sizeof(line), "anteroom: %s Trying again until it works.", h->complaint);
    if (!known)
        h->log(h->log_data, line);
}

/* What frames mean. Each returns whether the link goes on. */

static bool nack(anteroom *h, const struct frame *f, int reason)
{
    return send_frame(h, h->life, (struct frame){.type = NACK, .seq = f->seq, .conn = f->conn, .a = (uint64_t)reason}, -1);
}

/* Lets go of a quarter of the kept connections, least recently used first, for the sake of their descriptors. Returns how many. */
static int make_room(anteroom *h)
{
    pthread_mutex_lock(&h->lock);
    int due = h->idle / 4 > LEAST_DROPPED ? h->idle / 4 : LEAST_DROPPED, dropped = 0;
    while (dropped < due && h->oldest != NULL) {
        struct entry *e = take_out(h, find(h, h->oldest->conn));
        pthread_mutex_unlock(&h->lock);
        send_frame(h, h->life, (struct frame){.type = DROPPED, .conn = e->conn}, -1);
        destroy(e);
        dropped++;
        pthread_mutex_lock(&h->lock);
    }
    pthread_mutex_unlock(&h->lock);
    return dropped;
}

/* Says it once: the next shortage has the same cause. */
static void tell_of_shortage(anteroom *h, int dropped)
{
    char line[256];
    struct rlimit limit = {0};
    if (h->told_of_shortage)
        return;
    h->told_of_shortage = true;
    getrlimit(RLIMIT_NOFILE, &limit);
    snprintf(line, sizeof(line), "anteroom: this process has no descriptor left for a connection (its limit is %llu); %d idle ones that it kept were let go of. "
                                 "Raise the limit (ulimit -n), or keep fewer (cache).", (unsigned long long)limit.rlim_cur, dropped);
    h->log(h->log_data, line);
}

/* The process is out of descriptors: makes room, so that the lease can come again, and refuses it for now. */
static bool on_lost_descriptor(anteroom *h, const struct frame *f)
{
    int dropped = make_room(h);
    tell_of_shortage(h, dropped);
    return nack(h, f, NACK_NO_DESCRIPTOR);
}

/* The entry of the connection that is lent: the one held, with a new descriptor if one came, or a new one. */
static struct entry *entry_of(anteroom *h, const struct frame *f, int fd)
{
    struct entry **at = find(h, f->conn), *e = *at;
    if (e != NULL && e->state == LEASED)
        return NULL;
    if (e == NULL) {
        if (fd < 0 || (e = calloc(1, sizeof(*e))) == NULL)
            return NULL;
        e->conn = f->conn;
        e->in_bucket = NULL;
        e->tabled = true;
        *at = e;
    } else {
        leave_idle(h, e);
        if (fd >= 0)
            close(e->fd);
    }
    if (fd >= 0)
        e->fd = fd;
    e->state = LEASED;
    return e;
}

static void enqueue(anteroom *h, struct entry *e)
{
    e->queued = true;
    e->in_queue = NULL;
    *h->last = e;
    h->last = &e->in_queue;
    pthread_cond_broadcast(&h->changed);
}

static void read_peer(struct entry *e, const struct frame *f)
{
    struct text value, inside;
    if (!find_member(f, "peer", &value) || !read_string(&value, &inside))
        return;
    size_t length = (size_t)(inside.end - inside.at);
    if (length >= sizeof(e->peer))
        return;
    memcpy(e->peer, inside.at, length);
    e->peer[length] = '\0';
}

static bool on_lease(anteroom *h, const struct frame *f, int fd)
{
    pthread_mutex_lock(&h->lock);
    struct entry *e = entry_of(h, f, fd);
    if (e != NULL) {
        e->seq = f->seq;
        e->flags = f->flags;
        e->a = f->a;
        e->b = f->b;
        e->life = h->life;
        read_peer(e, f);
        enqueue(h, e);
    }
    pthread_mutex_unlock(&h->lock);
    if (e != NULL)
        return true;
    if (fd >= 0)
        close(fd);
    return nack(h, f, fd >= 0 ? NACK_OVERLOAD : NACK_UNKNOWN);
}

static void leave_queue(anteroom *h, struct entry *e)
{
    struct entry **at = &h->first;
    while (*at != e)
        at = &(*at)->in_queue;
    *at = e->in_queue;
    if (h->last == &e->in_queue)
        h->last = at;
}

static bool on_forget(anteroom *h, const struct frame *f)
{
    pthread_mutex_lock(&h->lock);
    struct entry **at = find(h, f->conn);
    if (*at != NULL) {
        struct entry *e = take_out(h, at);
        if (e->queued)
            leave_queue(h, e);
        if (e->state == LEASED && !e->queued) {
            sever(e->fd);
            e->fd = -1; /* it is with the lease */
        }
        destroy(e);
    }
    pthread_mutex_unlock(&h->lock);
    return true;
}

static bool on_welcome(anteroom *h, const struct frame *f)
{
    struct text features;
    bool listed = find_member(f, "features", &features);
    char line[sizeof(h->path) + 64];
    snprintf(line, sizeof(line), "anteroom: attached to the sidecar at %s.", h->path);
    h->log(h->log_data, line);
    pthread_mutex_lock(&h->lock);
    h->may_cache = listed && h->cache > 0 && list_has(features, "cache");
    h->may_finish = listed && list_has(features, "finish");
    h->attached = true;
    h->complaint[0] = '\0';
    int capacity = h->capacity;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    return capacity > 0 || send_frame(h, h->life, (struct frame){.type = CAPACITY}, -1); /* which a HELLO cannot say */
}

/* Says that this host leaves, once. */
static bool say_drain(anteroom *h)
{
    pthread_mutex_lock(&h->lock);
    bool first = !h->draining;
    h->draining = true;
    pthread_mutex_unlock(&h->lock);
    return !first || send_frame(h, h->life, (struct frame){.type = DRAIN}, -1);
}

/* The answer to our own wish; else the sidecar's, which we agree to. */
static bool on_draining(anteroom *h)
{
    pthread_mutex_lock(&h->lock);
    bool ours = h->draining;
    h->drained = ours;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    return ours || say_drain(h);
}

static const char *code_name(uint64_t code)
{
    static const char *const names[] = {
        "code 0", "BAD_FRAME", "BAD_MAGIC", "BAD_VERSION", "BAD_PAYLOAD", "HELLO_TWICE", "HELLO_LATE", "TOO_LONG", "NO_DESCRIPTOR", "STRAY_DESCRIPTOR",
        "BAD_DESCRIPTOR", "NOT_YOURS", "AT_LIMIT", "TOO_SLOW", "NOT_ALLOWED", "STOPPING", "OUT_OF_DESCRIPTORS", "NOT_AGREED", "NOT_ANSWERING"
    };
    return code < sizeof(names) / sizeof(*names) ? names[code] : "an unknown code";
}

static bool on_end(anteroom *h, const struct frame *f)
{
    complain(h, "The sidecar %s: %s: %.*s.", f->type == REFUSE ? "refuses this host" : "has ended the link", code_name(f->a),
             f->length < 300 ? (int)f->length : 300, f->payload);
    return false;
}

/* The descriptor that is due with the frame: -1 for none, -2 for one that was lost, -3 for one that never came. */
static int descriptor_of(anteroom *h, const struct frame *f)
{
    if (!(f->flags & FLAG_FD))
        return -1;
    if (h->fd_count > 0) {
        int fd = h->fds[0];
        memmove(h->fds, h->fds + 1, (size_t)--h->fd_count * sizeof(int));
        return fd;
    }
    if (h->lost == 0)
        return -3;
    h->lost--;
    return -2;
}

static bool attend(anteroom *h, const struct frame *f)
{
    int fd = descriptor_of(h, f);
    if (fd == -3) {
        complain(h, "The sidecar announced a descriptor that did not come.");
        return false;
    }
    if (f->type == LEASE)
        return fd == -2 ? on_lost_descriptor(h, f) : on_lease(h, f, fd);
    if (fd >= 0)
        close(fd); /* with a word of a later version, which may be ignored */
    switch (f->type) {
    case PING:
        return send_frame(h, h->life, (struct frame){.type = PONG, .a = f->a}, -1);
    case FORGET:
        return on_forget(h, f);
    case WELCOME:
        return on_welcome(h, f);
    case DRAINING:
        return on_draining(h);
    case REFUSE:
    case ERROR:
        return on_end(h, f);
    default:
        return true;
    }
}

/* The thread that reads. */

/* Takes the descriptors that came with a message. The protocol has one in each; more are an error, and closed. */
static bool take_descriptors(anteroom *h, struct msghdr *message)
{
    int arrived = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (arrived++ == 0 && h->fd_count < (int)(sizeof(h->fds) / sizeof(int)))
                h->fds[h->fd_count++] = fd;
            else
                close(fd);
        }
    }
    if (arrived == 0 && message->msg_flags & MSG_CTRUNC)
        h->lost++;
    if (arrived > 1)
        complain(h, "The sidecar sent %d descriptors in one message.", arrived);
    return arrived <= 1;
}

static bool read_link(anteroom *h)
{
    union {
        char space[CMSG_SPACE(8 * sizeof(int))]; /* room for more than is allowed, so that a surplus is seen */
        struct cmsghdr align;
    } control;
    struct iovec part = {h->unread + h->unread_size, UNREAD_ROOM - h->unread_size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)};
    ssize_t got = recvmsg(h->link, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (got <= 0) {
        complain(h, "The sidecar hung up%s%s.", got < 0 ? ": " : "", got < 0 ? strerror(errno) : "");
        return false;
    }
    h->unread_size += (size_t)got;
    return take_descriptors(h, &message);
}

static bool attend_all(anteroom *h)
{
    size_t start = 0;
    struct frame f;
    int length;
    while ((length = decode(h->unread + start, h->unread_size - start, &f)) > 0) {
        if (!attend(h, &f))
            return false;
        start += (size_t)length;
    }
    if (length < 0) {
        complain(h, "The sidecar sent what is no frame: %s.", code_name((uint64_t)-length));
        return false;
    }
    h->unread_size -= start;
    memmove(h->unread, h->unread + start, h->unread_size);
    return true;
}

/* Notes what connect(2) said, and what to do about it. */
static void complain_of_connect(anteroom *h, int error)
{
    const char *hint = error == ENOENT         ? "Start the sidecar (anteroom serve --handoff …), or name the right path in ANTEROOM_HANDOFF."
                       : error == EACCES       ? "Name this process's user in the sidecar's option handoff-allow-uid, or its group in handoff-allow-gid. "
                                                 "If it is named there, the mode of the socket or of a folder above it is in the way."
                       : error == ECONNREFUSED ? "Is the sidecar running?"
                                               : "";
    complain(h, "Cannot connect to the handoff socket %s: %s. %s", h->path, strerror(error), hint);
}

/* Connects and says HELLO. */
static bool connect_link(anteroom *h)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, h->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        complain_of_connect(h, errno);
        if (fd >= 0)
            close(fd);
        return false;
    }
    pthread_mutex_lock(&h->lock);
    h->life++;
    h->attached = h->draining = h->drained = h->may_cache = h->may_finish = false;
    int capacity = h->capacity > 0 ? h->capacity : 1;
    pthread_mutex_unlock(&h->lock);

    pthread_mutex_lock(&h->sending);
    h->link = fd;
    h->link_life = h->life;
    pthread_mutex_unlock(&h->sending);

    char hello[512];
    int length = snprintf(hello, sizeof(hello), "{\"name\":\"%s\",\"pool\":\"%s\",\"capacity\":%d,\"features\":[%s\"address\",\"finish\"],\"agent\":\"anteroom-c/%s\"}",
                          h->name, h->pool, capacity, h->cache > 0 ? "\"cache\"," : "", ANTEROOM_VERSION);
    struct frame f = {.type = HELLO, .length = (uint16_t)length, .a = get_number((const uint8_t *)"ANTR", 4) | (uint64_t)PROTOCOL_VERSION << 32, .payload = hello};
    uint8_t frame[HEADER + sizeof(hello)];
    /* That it cannot be sent is no reason to stop: the sidecar may have refused us before, and what it says is still to be read. */
    (void)!send(fd, frame, encode(frame, &f), MSG_NOSIGNAL);
    return true;
}

static void end_link(anteroom *h)
{
    pthread_mutex_lock(&h->lock);
    h->attached = false;
    h->life++;
    empty_table(h);
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);

    if (h->link >= 0)
        shutdown(h->link, SHUT_RDWR); /* wakes a thread that waits for room in it, before we wait for that thread */
    pthread_mutex_lock(&h->sending);
    if (h->link >= 0)
        close(h->link);
    h->link = -1;
    pthread_mutex_unlock(&h->sending);

    while (h->fd_count > 0)
        close(h->fds[--h->fd_count]);
    h->unread_size = 0;
    h->lost = 0;
}

/* Waits for the link (unless it is -1), the bell and the time. Returns whether the link is readable. */
static bool wait_for(anteroom *h, int link, int timeout_ms)
{
    struct pollfd what[] = {{.fd = h->bell, .events = POLLIN}, {.fd = link, .events = POLLIN}};
    poll(what, 2, timeout_ms);
    uint64_t rings;
    if (what[0].revents)
        (void)!read(h->bell, &rings, sizeof(rings));
    return what[1].revents != 0;
}

static bool is_leaving(anteroom *h)
{
    return atomic_load(&h->asked_to_drain) || atomic_load(&h->asked_to_end);
}

/* One life of the link. */
static void live(anteroom *h)
{
    int64_t began = now_ms();
    for (bool welcomed = false;;) {
        if (atomic_load(&h->asked_to_end) || (atomic_load(&h->asked_to_drain) && !welcomed))
            return; /* before WELCOME nothing is held, and who knows when the sidecar reads */
        if (atomic_load(&h->asked_to_drain) && !say_drain(h))
            return;
        int64_t left = began + WELCOME_TIMEOUT_MS - now_ms();
        if (!welcomed && left <= 0) {
            complain(h, "The sidecar at %s did not answer HELLO within %d s.", h->path, WELCOME_TIMEOUT_MS / 1000);
            return;
        }
        if (wait_for(h, h->link, welcomed ? -1 : (int)left) && !(read_link(h) && attend_all(h)))
            return;
        welcomed = h->attached; /* which only this thread changes */
    }
}

static void *run(void *argument)
{
    anteroom *h = argument;
    unsigned seed = (unsigned)getpid() ^ (unsigned)now_ms();
    int pause = FIRST_PAUSE_MS;
    while (!is_leaving(h)) {
        int64_t began = now_ms();
        bool attached = false;
        if (connect_link(h)) {
            live(h);
            attached = h->attached;
        }
        end_link(h);
        if (is_leaving(h))
            break;
        tell_trouble(h);
        if (attached && now_ms() - began > STABLE_MS)
            pause = FIRST_PAUSE_MS;
        wait_for(h, -1, pause / 2 + rand_r(&seed) % (pause / 2 + 1)); /* so that hosts do not all come at once */
        pause = 2 * pause < LAST_PAUSE_MS ? 2 * pause : LAST_PAUSE_MS;
    }
    pthread_mutex_lock(&h->lock);
    h->ended = true;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/* The public functions. */

static void log_to_stderr(void *data, const char *line)
{
    (void)data;
    fprintf(stderr, "%s\n", line);
}

static const char *setting(const char *given, const char *variable, const char *otherwise)
{
    const char *value = given != NULL ? given : getenv(variable);
    return value != NULL && (given != NULL || *value != '\0') ? value : otherwise;
}

/* The path of a Unix socket's address such as unix:///run/anteroom/handoff.sock; anything else is a path already. */
static const char *path_of(const char *address)
{
    return strncmp(address, "unix:///", 8) == 0 ? address + 7 : address;
}

static bool good_name(const char *name)
{
    size_t length = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-");
    return length >= 1 && length <= MAX_NAME && name[length] == '\0';
}

/* The number that is written there; 0 if there is something else. */
static int whole_number(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits >= 1 && digits <= 9 && text[digits] == '\0' ? atoi(text) : 0;
}

/* Returns what is wrong with the options, errno with it, or NULL. */
static const char *choose(anteroom *h, const anteroom_options *o)
{
    char own_name[32];
    snprintf(own_name, sizeof(own_name), "c-%ld", (long)getpid());
    const char *path = path_of(setting(o->path, "ANTEROOM_HANDOFF", DEFAULT_PATH));
    const char *pool = setting(o->pool, "ANTEROOM_POOL", "default");
    const char *name = setting(o->name, "ANTEROOM_NAME", own_name);
    const char *capacity = o->capacity != 0 ? NULL : setting(NULL, "ANTEROOM_CAPACITY", "1");
    h->capacity = capacity != NULL ? whole_number(capacity) : o->capacity;
    h->cache = o->cache == 0 ? DEFAULT_CACHE : o->cache;
    errno = EINVAL;
    if (h->capacity < 1 || h->capacity > MAX_CAPACITY)
        return "the capacity must be 1 to 4096";
    if (h->cache > MAX_CACHE)
        return "the cache must be at most 65536";
    if (!good_name(name))
        return "the name must be 1 to 64 of A-Z a-z 0-9 . _ : -";
    if (*pool != '\0' && !good_name(pool))
        return "the pool must be 1 to 64 of A-Z a-z 0-9 . _ : -, or empty";
    errno = ENAMETOOLONG;
    if (strlen(path) >= sizeof(h->path))
        return "the path of the handoff socket is too long";
    strcpy(h->path, path);
    strcpy(h->pool, pool);
    strcpy(h->name, name);
    return NULL;
}

anteroom *anteroom_new(const anteroom_options *options)
{
    static const anteroom_options none;
    const anteroom_options *o = options != NULL ? options : &none;
    anteroom *h = calloc(1, sizeof(*h));
    if (h == NULL)
        return NULL;
    h->log = o->log != NULL ? o->log : log_to_stderr;
    h->log_data = o->log_data;
    h->last = &h->first;
    h->link = -1;
    h->bell = -1;
    const char *wrong = choose(h, o);
    if (wrong == NULL && (h->unread = malloc(UNREAD_ROOM)) != NULL && (h->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) >= 0) {
        pthread_condattr_t monotonic;
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&h->changed, &monotonic);
        pthread_condattr_destroy(&monotonic);
        pthread_mutex_init(&h->lock, NULL);
        pthread_mutex_init(&h->sending, NULL);
        return h;
    }
    int why = errno;
    if (wrong != NULL) {
        char line[128];
        snprintf(line, sizeof(line), "anteroom: %s", wrong);
        h->log(h->log_data, line);
    }
    free(h->unread);
    free(h);
    errno = why;
    return NULL;
}

static int start_locked(anteroom *h)
{
    if (h->started)
        return 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&h->thread, NULL, run, h);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    h->started = failed == 0;
    errno = failed;
    return failed ? -1 : 0;
}

/* When `timeout_ms` from now is, for wait_locked. */
static struct timespec deadline_in(int timeout_ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += timeout_ms / 1000;
    t.tv_nsec += timeout_ms % 1000 * 1000000L;
    if (t.tv_nsec >= 1000000000L) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000L;
    }
    return t;
}

/* Waits for a change. Returns false when the time has come. */
static bool wait_locked(anteroom *h, int timeout_ms, const struct timespec *deadline)
{
    if (timeout_ms < 0)
        return pthread_cond_wait(&h->changed, &h->lock) == 0;
    return pthread_cond_timedwait(&h->changed, &h->lock, deadline) == 0;
}

int anteroom_attach(anteroom *h, int timeout_ms)
{
    struct timespec deadline = deadline_in(timeout_ms > 0 ? timeout_ms : 0);
    pthread_mutex_lock(&h->lock);
    int result = start_locked(h);
    if (result == 0 && timeout_ms != 0) {
        while (!h->attached && !h->ended && wait_locked(h, timeout_ms, &deadline))
            ;
        if (!h->attached) {
            errno = ETIMEDOUT;
            result = -1;
        }
    }
    pthread_mutex_unlock(&h->lock);
    return result;
}

static void hand_out(anteroom *h, struct entry *e, anteroom_lease *lease)
{
    h->first = e->in_queue;
    if (h->first == NULL)
        h->last = &h->first;
    e->queued = false;
    *lease = (anteroom_lease){
        .fd = e->fd, .flags = e->flags & (ANTEROOM_FRESH | ANTEROOM_LAST), .conn = e->conn, .seq = e->seq, .head_length = (uint32_t)e->a,
        .request_length = (uint32_t)(e->a >> 32), .waited_us = e->b, .life = e->life
    };
    memcpy(lease->peer, e->peer, sizeof(lease->peer));
    if (!e->tabled)
        free(e); /* its link has ended */
}

int anteroom_next(anteroom *h, anteroom_lease *lease, int timeout_ms)
{
    struct timespec deadline = deadline_in(timeout_ms > 0 ? timeout_ms : 0);
    int result = -2;
    pthread_mutex_lock(&h->lock);
    do {
        if (h->first != NULL) {
            hand_out(h, h->first, lease);
            result = 1;
        } else if (h->ended || (h->drained && is_leaving(h))) {
            errno = ESHUTDOWN;
            result = -1;
        } else if (!wait_locked(h, timeout_ms, &deadline)) {
            result = 0;
        }
    } while (result == -2);
    pthread_mutex_unlock(&h->lock);
    return result;
}

/* Takes the lease from those that are out. Returns its entry, which stays in the table among the idle ones if `keep` says so and the
 * sidecar has agreed, or else is the caller's to free. NULL if the lease is none of those that are out. */
static struct entry *claim_locked(anteroom *h, const anteroom_lease *lease, bool keep, bool *kept)
{
    struct entry **at = find(h, lease->conn), *e = *at;
    *kept = false;
    if (e == NULL || e->state != LEASED || e->queued || e->seq != lease->seq || h->life != lease->life)
        return NULL;
    if (!keep || !h->may_cache)
        return take_out(h, at);
    enter_idle(h, e);
    *kept = true;
    return e;
}

/* Answers with `f`. From the moment it is sent the next lease of the connection may come: so what is kept is put among the idle ones before. */
static int answer(anteroom *h, anteroom_lease *lease, struct frame f, bool keep, int file)
{
    int fd = lease->fd;
    lease->fd = -1;
    if (fd < 0)
        return 0;
    bool kept;
    struct entry *evicted = NULL;
    pthread_mutex_lock(&h->lock);
    struct entry *e = claim_locked(h, lease, keep, &kept);
    if (kept && h->idle > h->cache)
        evicted = take_out(h, find(h, h->oldest->conn));
    pthread_mutex_unlock(&h->lock);

    f.seq = lease->seq;
    f.conn = lease->conn;
    bool sent = e != NULL && send_frame(h, lease->life, f, file);
    if (!kept) {
        close(fd);
        free(e);
    }
    if (evicted != NULL) {
        send_frame(h, lease->life, (struct frame){.type = DROPPED, .conn = evicted->conn}, -1);
        destroy(evicted);
    }
    return sent;
}

static uint64_t bounded(uint64_t keep_alive_ms)
{
    return keep_alive_ms < MAX_KEEP_ALIVE_MS ? keep_alive_ms : MAX_KEEP_ALIVE_MS;
}

int anteroom_put(anteroom *h, anteroom_lease *lease, uint64_t keep_alive_ms, uint64_t requests)
{
    return answer(h, lease, (struct frame){.type = PUT, .a = bounded(keep_alive_ms), .b = requests}, true, -1);
}

int anteroom_close(anteroom *h, anteroom_lease *lease, int reason, uint64_t requests)
{
    return answer(h, lease, (struct frame){.type = CLOSE, .a = (uint64_t)reason, .b = requests}, false, -1);
}

int anteroom_nack(anteroom *h, anteroom_lease *lease)
{
    return answer(h, lease, (struct frame){.type = NACK, .a = NACK_OVERLOAD}, false, -1);
}

int anteroom_finish(anteroom *h, anteroom_lease *lease, int file, uint64_t offset, uint64_t length, uint64_t keep_alive_ms, int then_close)
{
    char payload[64] = "";
    if (lease->fd >= 0 && !anteroom_may_finish(h)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    if (keep_alive_ms > 0 && !then_close)
        snprintf(payload, sizeof(payload), "{\"keep_alive_timeout_ms\":%llu}", (unsigned long long)bounded(keep_alive_ms));
    struct frame f = {.type = FINISH, .flags = then_close ? FLAG_CLOSE : 0, .length = (uint16_t)strlen(payload), .a = offset, .b = length, .payload = payload};
    return answer(h, lease, f, !then_close, file);
}

int anteroom_detach(anteroom *h, anteroom_lease *lease, int *fd)
{
    bool kept;
    *fd = lease->fd;
    lease->fd = -1;
    if (*fd < 0)
        return 0;
    pthread_mutex_lock(&h->lock);
    struct entry *e = claim_locked(h, lease, false, &kept);
    pthread_mutex_unlock(&h->lock);
    bool sent = e != NULL && send_frame(h, lease->life, (struct frame){.type = DETACH, .seq = lease->seq, .conn = lease->conn}, -1);
    free(e);
    return sent;
}

int anteroom_may_finish(anteroom *h)
{
    pthread_mutex_lock(&h->lock);
    bool may = h->may_finish;
    pthread_mutex_unlock(&h->lock);
    return may;
}

int anteroom_capacity(anteroom *h, int capacity)
{
    if (capacity < 0 || capacity > MAX_CAPACITY) {
        errno = EINVAL;
        return -1;
    }
    pthread_mutex_lock(&h->lock);
    h->capacity = capacity;
    bool tell = h->attached;
    unsigned life = h->life;
    pthread_mutex_unlock(&h->lock);
    if (tell)
        send_frame(h, life, (struct frame){.type = CAPACITY, .a = (uint64_t)capacity}, -1);
    return 0;
}

static void ring(anteroom *h)
{
    uint64_t one = 1;
    int before = errno;
    (void)!write(h->bell, &one, sizeof(one));
    errno = before;
}

void anteroom_drain(anteroom *h)
{
    atomic_store(&h->asked_to_drain, true);
    ring(h);
}

int anteroom_join(anteroom *h, int timeout_ms)
{
    struct timespec deadline = deadline_in(timeout_ms > 0 ? timeout_ms : 0);
    pthread_mutex_lock(&h->lock);
    while (h->started && !h->ended && wait_locked(h, timeout_ms, &deadline))
        ;
    bool ended = !h->started || h->ended;
    pthread_mutex_unlock(&h->lock);
    if (!ended)
        errno = ETIMEDOUT;
    return ended ? 0 : -1;
}

void anteroom_trouble(anteroom *h, char *text, size_t size)
{
    pthread_mutex_lock(&h->lock);
    snprintf(text, size, "%s", h->trouble);
    pthread_mutex_unlock(&h->lock);
}

void anteroom_free(anteroom *h)
{
    if (h == NULL)
        return;
    atomic_store(&h->asked_to_end, true);
    ring(h);
    if (h->started)
        pthread_join(h->thread, NULL);
    while (h->first != NULL) {
        struct entry *e = h->first;
        h->first = e->in_queue;
        destroy(e);
    }
    close(h->bell);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->lock);
    pthread_mutex_destroy(&h->sending);
    free(h->unread);
    free(h);
}
