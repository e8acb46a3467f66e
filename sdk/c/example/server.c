/* server.c: an HTTP server behind Anteroom, and this SDK's conformance app. ANTEROOM_CAPACITY threads (else 4), each with one lease at a
 * time. The options of a host come from the environment. SIGTERM and SIGINT: it leaves in good order. */
#define _GNU_SOURCE
#include "http.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PART = 65536, MAX_NUMBER = 100000000 };

static anteroom *host;

/* One request, and where its response goes. */
struct exchange {
    anteroom_lease *lease;
    const struct http_request *request;
    bool alone;     /* nothing of a further request was read */
    bool keep;      /* the connection after it */
    bool gone;      /* the lease was answered with the response */
    bool failed;    /* the client takes nothing, or has gone */
};

static bool is_head(const struct exchange *x)
{
    return strcmp(x->request->method, "HEAD") == 0;
}

static const char *phrase(int status)
{
    static const struct { int status; const char *phrase; } phrases[] = {
        {101, "Switching Protocols"}, {200, "OK"}, {204, "No Content"}, {304, "Not Modified"}, {400, "Bad Request"}, {404, "Not Found"},
        {408, "Request Timeout"}, {413, "Content Too Large"}, {431, "Request Header Fields Too Large"}, {500, "Internal Server Error"},
        {501, "Not Implemented"}, {503, "Service Unavailable"}
    };
    for (size_t i = 0; i < sizeof(phrases) / sizeof(*phrases); i++)
        if (phrases[i].status == status)
            return phrases[i].phrase;
    return "Status";
}

static void send_all(struct exchange *x, const char *data, size_t size)
{
    if (!x->failed && !http_write(x->lease->fd, data, size))
        x->failed = true;
}

/* Sends the head, and the body with it if that is short (NULL: it follows). `length` is the body's, -1 if it is not known: then the body
 * is chunked, or ends with the connection. */
static void respond(struct exchange *x, int status, const char *body, int64_t length)
{
    const char *echo = http_field(x->request, "x-echo");
    size_t room = 512 + (echo ? strlen(echo) : 0), size;
    bool bodiless = status == 204 || status == 304 || status < 200;
    char *head = malloc(room + (body ? (size_t)length : 0));
    if (head == NULL) {
        x->failed = true;
        return;
    }
    x->keep = x->keep && (length >= 0 || x->request->http11);
    size = (size_t)sprintf(head, "HTTP/1.%d %d %s\r\nContent-Type: text/plain\r\n", x->request->http11, status, phrase(status));
    if (!bodiless && length >= 0)
        size += (size_t)sprintf(head + size, "Content-Length: %lld\r\n", (long long)length);
    if (!bodiless && length < 0 && x->request->http11)
        size += (size_t)sprintf(head + size, "Transfer-Encoding: chunked\r\n");
    if (echo != NULL)
        size += (size_t)sprintf(head + size, "X-Echo: %s\r\n", echo);
    if (!x->keep || !x->request->http11)
        size += (size_t)sprintf(head + size, "Connection: %s\r\n", x->keep ? "keep-alive" : "close");
    size += (size_t)sprintf(head + size, "\r\n");
    if (body != NULL && !bodiless && !is_head(x)) {
        memcpy(head + size, body, (size_t)length);
        size += (size_t)length;
    }
    send_all(x, head, size);
    free(head);
}

static void respond_text(struct exchange *x, int status, const char *text)
{
    respond(x, status, text, (int64_t)strlen(text));
}

/* The value of a number in the target's query, 0 if there is none, at most MAX_NUMBER. */
static long number(const struct exchange *x, const char *name)
{
    const char *at = strchr(x->request->target, '?');
    size_t length = strlen(name);
    for (; at != NULL; at = strchr(at, '&'))
        if (strncmp(++at, name, length) == 0 && at[length] == '=') {
            long value = strtol(at + length + 1, NULL, 10);
            return value < 0 ? 0 : value > MAX_NUMBER ? MAX_NUMBER : value;
        }
    return 0;
}

/* Byte i of a body is 'a' + i % 26. */
static size_t letters(char *part, size_t offset, size_t size)
{
    size_t count = size - offset < PART ? size - offset : PART;
    for (size_t i = 0; i < count; i++)
        part[i] = (char)('a' + (offset + i) % 26);
    return count;
}

static void send_letters(struct exchange *x, size_t size, bool chunked)
{
    char part[PART], line[32];
    for (size_t offset = 0, count; offset < size && !x->failed; offset += count) {
        count = letters(part, offset, size);
        if (chunked)
            send_all(x, line, (size_t)sprintf(line, "%zx\r\n", count));
        send_all(x, part, count);
        if (chunked)
            send_all(x, "\r\n", 2);
    }
    if (chunked)
        send_all(x, "0\r\n\r\n", 5);
}

static void serve_bytes(struct exchange *x)
{
    long size = number(x, "n");
    respond(x, 200, NULL, size);
    if (!is_head(x))
        send_letters(x, (size_t)size, false);
}

static void serve_stream(struct exchange *x)
{
    respond(x, 200, NULL, -1);
    if (!is_head(x))
        send_letters(x, (size_t)number(x, "n"), x->request->http11);
}

/* Leaves the body to the sidecar, so that the thread is free however slow the client is. */
static void serve_file(struct exchange *x)
{
    size_t size = (size_t)number(x, "n");
    char part[PART];
    int file = size > 0 && x->alone && !is_head(x) && anteroom_may_finish(host) ? memfd_create("response", MFD_CLOEXEC) : -1;
    if (file < 0) {
        serve_bytes(x);
        return;
    }
    bool whole = true;
    for (size_t offset = 0, count; whole && offset < size; offset += count) {
        count = letters(part, offset, size);
        whole = write(file, part, count) == (ssize_t)count;
    }
    if (!whole) {
        respond_text(x, 503, "no room for the file\n");
    } else {
        respond(x, 200, NULL, (int64_t)size);
        x->gone = !x->failed && anteroom_finish(host, x->lease, file, 0, size, 0, !x->keep) >= 0;
        if (!x->failed && !x->gone)
            send_letters(x, size, false); /* the sidecar was replaced meanwhile */
    }
    close(file);
}

static void serve_status(struct exchange *x)
{
    char text[16];
    int code = (int)number(x, "code");
    snprintf(text, sizeof(text), "%d\n", code);
    respond_text(x, code, text);
}

static void serve_sleep(struct exchange *x)
{
    long ms = number(x, "ms");
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
    respond_text(x, 200, "slept\n");
}

/* The client's address as the socket or a load balancer tells it. */
static void serve_peer(struct exchange *x)
{
    char text[sizeof(x->lease->peer) + INET6_ADDRSTRLEN] = "";
    const char *told = x->lease->peer;
    if (*told != '\0') {
        const char *colon = strrchr(told, ':');
        bool v6 = *told == '[';
        snprintf(text, sizeof(text), "%.*s", (int)(colon - told) - 2 * v6, told + v6);
    } else {
        struct sockaddr_storage address;
        socklen_t size = sizeof(address);
        if (getpeername(x->lease->fd, (struct sockaddr *)&address, &size) == 0 && address.ss_family == AF_INET)
            inet_ntop(AF_INET, &((struct sockaddr_in *)&address)->sin_addr, text, sizeof(text));
        else if (address.ss_family == AF_INET6)
            inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&address)->sin6_addr, text, sizeof(text));
    }
    strcat(text, "\n");
    respond_text(x, 200, text);
}

static void serve_echo(struct exchange *x)
{
    if (strcmp(x->request->method, "POST") == 0 || strcmp(x->request->method, "PUT") == 0)
        respond(x, 200, x->request->body, (int64_t)x->request->body_length);
    else
        respond_text(x, 404, "not found\n");
}

static void *echo_bytes(void *argument)
{
    char part[PART];
    int fd = (int)(intptr_t)argument;
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    ssize_t got = 1;
    while (got > 0 && poll(&readable, 1, -1) > 0)
        if ((got = recv(fd, part, sizeof(part), MSG_DONTWAIT)) > 0 && !http_write(fd, part, (size_t)got))
            break;
    close(fd);
    return NULL;
}

/* `behind` is what was read behind the request, and belongs to the new protocol. */
static void serve_upgrade(struct exchange *x, const char *behind, size_t size)
{
    const char *protocol = http_field(x->request, "upgrade"), *echo = http_field(x->request, "x-echo");
    if (protocol == NULL || strcmp(protocol, "echo") != 0) {
        respond_text(x, 404, "not found\n");
        return;
    }
    int fd;
    pthread_t thread;
    anteroom_detach(host, x->lease, &fd);
    x->gone = true;
    bool good = dprintf(fd, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n%s%s%s\r\n", echo ? "X-Echo: " : "", echo ? echo : "",
                        echo ? "\r\n" : "") > 0 && http_write(fd, behind, size);
    if (good && pthread_create(&thread, NULL, echo_bytes, (void *)(intptr_t)fd) == 0)
        pthread_detach(thread);
    else
        close(fd);
}

static bool is_path(const struct exchange *x, const char *path)
{
    size_t length = strcspn(x->request->target, "?");
    return strlen(path) == length && strncmp(x->request->target, path, length) == 0;
}

static void serve_pid(struct exchange *x)
{
    char text[32];
    snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    respond_text(x, 200, text);
}

static void serve_close(struct exchange *x)
{
    x->keep = false;
    respond_text(x, 200, "bye\n");
}

static void serve_root(struct exchange *x)
{
    respond_text(x, 200, "hello from c\n");
}

static void serve_crash(struct exchange *x)
{
    (void)x;
    _exit(1);
}

static void dispatch(struct exchange *x)
{
    static const struct { const char *path; void (*serve)(struct exchange *); } routes[] = {
        {"/", serve_root}, {"/echo", serve_echo}, {"/bytes", serve_bytes}, {"/stream", serve_stream}, {"/status", serve_status},
        {"/sleep", serve_sleep}, {"/close", serve_close}, {"/peer", serve_peer}, {"/pid", serve_pid}, {"/crash", serve_crash}, {"/file", serve_file}
    };
    for (size_t i = 0; i < sizeof(routes) / sizeof(*routes); i++)
        if (is_path(x, routes[i].path)) {
            routes[i].serve(x);
            return;
        }
    respond_text(x, 404, "not found\n");
}

/* Refuses what is no good request, and ends the connection. */
static void refuse(anteroom_lease *lease, int status)
{
    char text[160];
    int size = snprintf(text, sizeof(text), "HTTP/1.1 %d %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status, phrase(status));
    if (status > 0)
        http_write(lease->fd, text, (size_t)size);
    anteroom_close(host, lease, status == 408 ? ANTEROOM_TOO_SLOW : ANTEROOM_CLIENT, 0);
}

/* Serves what is read under one lease, then answers it. */
static void serve(anteroom_lease *lease)
{
    struct http_reader reader;
    struct http_request request;
    uint64_t requests = 0;
    http_begin(&reader, lease);
    for (;;) {
        int status = http_read(&reader, &request);
        if (status != 0) {
            refuse(lease, status);
            break;
        }
        requests++;
        struct exchange x = {.lease = lease, .request = &request, .keep = request.keep_alive && !(lease->flags & ANTEROOM_LAST)};
        x.alone = reader.used == reader.size;
        if (is_path(&x, "/upgrade"))
            serve_upgrade(&x, reader.buffer + reader.used, reader.size - reader.used);
        else
            dispatch(&x);
        if (x.gone)
            break;
        if (x.failed || !x.keep) {
            anteroom_close(host, lease, x.failed ? ANTEROOM_CLIENT : ANTEROOM_DONE, requests);
            break;
        }
        if (!http_pending(&reader)) {
            anteroom_put(host, lease, 0, requests);
            break;
        }
    }
    http_end(&reader);
}

static void *work(void *argument)
{
    anteroom_lease lease;
    (void)argument;
    while (anteroom_next(host, &lease, -1) == 1)
        serve(&lease);
    return NULL;
}

static void on_signal(int number)
{
    (void)number;
    anteroom_drain(host);
}

int main(void)
{
    const char *capacity = getenv("ANTEROOM_CAPACITY");
    int threads = capacity && *capacity ? atoi(capacity) : 4;
    host = anteroom_new(&(anteroom_options){.capacity = threads});
    if (host == NULL || anteroom_attach(host, 0) < 0) {
        perror("anteroom");
        return 1;
    }
    struct sigaction leave = {.sa_handler = on_signal};
    sigaction(SIGTERM, &leave, NULL);
    sigaction(SIGINT, &leave, NULL);
    pthread_t *all = calloc((size_t)threads, sizeof(*all));
    for (int i = 0; all != NULL && i < threads; i++)
        if (pthread_create(&all[i], NULL, work, NULL) != 0)
            abort();
    for (int i = 0; all != NULL && i < threads; i++)
        pthread_join(all[i], NULL);
    free(all);
    anteroom_join(host, -1);
    anteroom_free(host);
    return 0;
}
