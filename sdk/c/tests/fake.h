/* fake.h: the sidecar's end of the protocol, played by hand. To be included after anteroom.c, whose codec it uses. */
#ifndef FAKE_H
#define FAKE_H

#include "check.h"

enum { PATIENCE_MS = 20000 };

/* One attached host. */
struct peer {
    int fd;
    uint8_t unread[HEADER + MAX_PAYLOAD];
    size_t size, used;
    char payload[MAX_PAYLOAD + 1]; /* of the frame read last */
    int descriptor;                /* that came last, -1 if none */
};

static inline bool readable(int fd, int timeout_ms)
{
    struct pollfd what = {.fd = fd, .events = POLLIN};
    return poll(&what, 1, timeout_ms) == 1;
}

static inline int fake_listen(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(path);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(fd, 8) == 0);
    return fd;
}

static inline void fake_write(struct peer *p, const uint8_t *data, size_t size, const int *fds, int count)
{
    union {
        char space[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec part = {(void *)data, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, (size_t)count * sizeof(int));
    }
    CHECK(sendmsg(p->fd, &message, MSG_NOSIGNAL) == (ssize_t)size);
}

static inline void fake_send(struct peer *p, struct frame f, int fd)
{
    uint8_t data[HEADER + MAX_PAYLOAD];
    if (f.payload != NULL)
        f.length = (uint16_t)strlen(f.payload);
    if (fd >= 0)
        f.flags |= FLAG_FD;
    fake_write(p, data, encode(data, &f), &fd, fd >= 0);
}

static inline bool fake_fill(struct peer *p)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    memmove(p->unread, p->unread + p->used, p->size -= p->used);
    p->used = 0;
    struct iovec part = {p->unread + p->size, sizeof(p->unread) - p->size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)};
    CHECK(readable(p->fd, PATIENCE_MS));
    ssize_t got = recvmsg(p->fd, &message, MSG_CMSG_CLOEXEC);
    if (got <= 0)
        return false;
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (c != NULL)
        memcpy(&p->descriptor, CMSG_DATA(c), sizeof(int));
    p->size += (size_t)got;
    return true;
}

static inline struct frame fake_read(struct peer *p)
{
    struct frame f;
    int length;
    while ((length = decode(p->unread + p->used, p->size - p->used, &f)) == 0)
        CHECK(fake_fill(p));
    CHECK(length > 0);
    memcpy(p->payload, f.payload, f.length);
    p->payload[f.length] = '\0';
    p->used += (size_t)length;
    return f;
}

/* The next frame, which must be of that type. */
static inline struct frame fake_expect(struct peer *p, enum type type)
{
    struct frame f = fake_read(p);
    CHECK(f.type == type);
    return f;
}

/* Whether the host says nothing, though it has read all that we sent. */
static inline bool fake_quiet(struct peer *p)
{
    fake_send(p, (struct frame){.type = PING, .a = 77}, -1);
    return fake_expect(p, PONG).a == 77;
}

static inline bool fake_hung_up(struct peer *p)
{
    return p->used == p->size && !fake_fill(p);
}

static inline void fake_accept(struct peer *p, int listener)
{
    CHECK(readable(listener, PATIENCE_MS));
    *p = (struct peer){.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), .descriptor = -1};
    CHECK(p->fd >= 0);
}

/* Accepts a host and welcomes it. */
static inline void fake_welcome(struct peer *p, int listener, const char *features)
{
    char payload[256];
    fake_accept(p, listener);
    struct frame hello = fake_expect(p, HELLO);
    CHECK((uint32_t)hello.a == 0x52544e41 && hello.a >> 32 == 1);
    snprintf(payload, sizeof(payload), "{\"host\":1,\"odd\":[{\"features\":[\"x\"]},\"}\\\"\"],\"features\":[%s],\"epoch\":\"e\"}", features);
    fake_send(p, (struct frame){.type = WELCOME, .a = 1, .payload = payload}, -1);
}

#endif
