/* The example's parser: what it takes and what it refuses, whole and in pieces. */
#include "../example/http.c"
#include "check.h"

#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#define HOST "Host: x\r\n"
#define CHUNKED "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"

struct writer {
    int fd;
    const char *data;
    size_t size, piece;
};

static void *write_pieces(void *argument)
{
    struct writer *w = argument;
    for (size_t at = 0; at < w->size; at += w->piece)
        if (!http_write(w->fd, w->data + at, w->size - at < w->piece ? w->size - at : w->piece))
            break;
    shutdown(w->fd, SHUT_WR);
    return NULL;
}

/* Reads requests until one is refused or the client is gone. The bodies, in brackets, go to `bodies`. Returns the last result. */
static int read_all(const char *data, size_t size, size_t piece, char *bodies)
{
    int pair[2], status;
    struct http_reader r;
    struct http_request q;
    pthread_t thread;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    struct writer w = {pair[0], data, size, piece};
    CHECK(pthread_create(&thread, NULL, write_pieces, &w) == 0);
    http_begin(&r, &(anteroom_lease){.fd = pair[1]});
    while ((status = http_read(&r, &q)) == 0)
        bodies += sprintf(bodies, "[%.*s]", (int)q.body_length, q.body_length ? q.body : "");
    *bodies = '\0';
    http_end(&r);
    close(pair[1]); /* frees a writer that has more to say */
    pthread_join(thread, NULL);
    close(pair[0]);
    return status;
}

static void refuses(int status, const char *data, size_t size)
{
    char bodies[256];
    CHECK(read_all(data, size, size, bodies) == status && *bodies == '\0');
    if (size < 1000)
        CHECK(read_all(data, size, 1, bodies) == status && *bodies == '\0');
}

static void test_refused(void)
{
    static const struct { int status; const char *data; } cases[] = {
        {400, "GET /\r\n\r\n"},
        {400, "GET / HTTP/2.0\r\n" HOST "\r\n"},
        {400, "GET / x HTTP/1.1\r\n" HOST "\r\n"},
        {400, "GET  HTTP/1.1\r\n" HOST "\r\n"},
        {400, "GET /\x01 HTTP/1.1\r\n" HOST "\r\n"},
        {400, "G(T / HTTP/1.1\r\n" HOST "\r\n"},
        {400, "GET / HTTP/1.1\r\n" HOST "A: b\nC: d\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" HOST "A: b\rC: d\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" HOST "A : b\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" HOST "A: b\r\n c\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" HOST "A\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" HOST ": b\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" HOST HOST "\r\n"},
        {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
        {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n\r\na"},
        {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\n"},
        {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: +1\r\n\r\na"},
        {400, "POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\na"},
        {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 1234567890123456789\r\n\r\n"},
        {413, "POST / HTTP/1.1\r\n" HOST "Content-Length: 134217729\r\n\r\n"},
        {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {501, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
        {501, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, CHUNKED "2\r\nabc\r\n0\r\n\r\n"},
        {400, CHUNKED "0x2\r\nab\r\n0\r\n\r\n"},
        {400, CHUNKED "2\nab\r\n0\r\n\r\n"},
        {400, CHUNKED "2;a\rb\r\nab\r\n0\r\n\r\n"},
        {400, CHUNKED "\r\nab\r\n0\r\n\r\n"},
        {400, CHUNKED "123456789\r\nab\r\n0\r\n\r\n"},
        {413, CHUNKED "ffffffff\r\n"},
        {GONE, "POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nab"},
        {GONE, "GET / HT"},
        {GONE, ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        refuses(cases[i].status, cases[i].data, strlen(cases[i].data));
    static const char nul[] = "GET / HTTP/1.1\r\n" HOST "A: b\0c\r\n\r\n";
    refuses(400, nul, sizeof(nul) - 1);
}

/* `repeated` so often that `size` bytes are exceeded, between two texts. */
static void refuses_long(int status, const char *before, const char *repeated, size_t size, const char *behind)
{
    char *data = malloc(strlen(before) + size + strlen(repeated) + strlen(behind) + 1), *end = data + sprintf(data, "%s", before);
    for (size_t i = 0; i <= size / strlen(repeated); i++)
        end += sprintf(end, "%s", repeated);
    end += sprintf(end, "%s", behind);
    refuses(status, data, (size_t)(end - data));
    free(data);
}

static void test_refused_for_length(void)
{
    refuses_long(431, "GET / HTTP/1.1\r\n" HOST "A: ", "a", MAX_HEAD, "\r\n\r\n");
    refuses_long(431, "GET / HTTP/1.1\r\n" HOST, "A: b\r\n", 6 * MAX_FIELDS, "\r\n");
    refuses_long(400, CHUNKED "2;", "a", MAX_LINE, "\r\nab\r\n0\r\n\r\n");
    refuses_long(431, CHUNKED "0\r\n", "A: b\r\n", MAX_HEAD, "\r\n");
}

static void test_taken(void)
{
    static const struct { const char *data, *bodies; } cases[] = {
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n", "[abc][]"},
        {"\r\n\r\nPOST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\na\r\nGET / HTTP/1.1\r\n" HOST "\r\n", "[a][]"},
        {CHUNKED "2;x=y\r\nab\r\nA \r\n0123456789\r\n0\r\nT: x\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", "[ab0123456789][]"},
        {CHUNKED "0\r\n\r\n", "[]"},
    };
    char bodies[256];
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        for (size_t piece = 1; piece < 100; piece += 7) {
            CHECK(read_all(cases[i].data, strlen(cases[i].data), piece, bodies) == GONE);
            CHECK(strcmp(bodies, cases[i].bodies) == 0);
        }
}

/* Requests with some bytes changed: whatever comes of it, nothing is read beyond what was sent (which the sanitizers see). */
static void test_mutated(void)
{
    static const char *const good[] = {
        CHUNKED "2;x=y\r\nab\r\nA \r\n0123456789\r\n0\r\nT: x\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n",
        "POST /a?b HTTP/1.1\r\n" HOST "Content-Length: 3\r\nConnection: a, close\r\nExpect: x\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
    };
    static const char spice[] = "\r\n\r\n :,;0123456789abcdefgzGPH/.\0\t\xff\x7f";
    char bodies[1024];
    unsigned seed = 1;
    for (int round = 0; round < 2000; round++) {
        char data[256];
        size_t size = strlen(good[round % 2]);
        memcpy(data, good[round % 2], size);
        for (int change = rand_r(&seed) % 4; change >= 0; change--)
            data[(size_t)rand_r(&seed) % size] = spice[(size_t)rand_r(&seed) % (sizeof(spice) - 1)];
        int status = read_all(data, size, 1 + (size_t)rand_r(&seed) % size, bodies);
        CHECK(status == GONE || status == 400 || status == 413 || status == 501);
    }
}

static bool keeps(const char *data)
{
    int pair[2];
    struct http_reader r;
    struct http_request q;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && http_write(pair[0], data, strlen(data)));
    http_begin(&r, &(anteroom_lease){.fd = pair[1]});
    CHECK(http_read(&r, &q) == 0);
    bool keep = q.keep_alive;
    http_end(&r);
    close(pair[0]);
    close(pair[1]);
    return keep;
}

static void test_keep_alive(void)
{
    CHECK(keeps("GET / HTTP/1.1\r\n" HOST "\r\n") && !keeps("GET / HTTP/1.0\r\n\r\n"));
    CHECK(!keeps("GET / HTTP/1.1\r\n" HOST "Connection: x, Close\r\n\r\n") && keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    CHECK(keeps("GET / HTTP/1.1\r\n" HOST "Connection: closed\r\n\r\n") && !keeps("GET / HTTP/1.1\r\n" HOST "Connection: x\r\nConnection: close\r\n\r\n"));
}

static void test_no_further_than_the_request(void)
{
    int pair[2];
    char rest[8];
    struct http_reader r;
    struct http_request q;
    static const char data[] = "GET / HTTP/1.0\r\n\r\nnext";
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && http_write(pair[0], data, sizeof(data) - 1));
    http_begin(&r, &(anteroom_lease){.fd = pair[1], .request_length = sizeof(data) - 5});
    CHECK(http_read(&r, &q) == 0 && !http_pending(&r) && recv(pair[1], rest, sizeof(rest), MSG_DONTWAIT) == 4);
    http_end(&r);
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    RUN(test_refused);
    RUN(test_refused_for_length);
    RUN(test_taken);
    RUN(test_mutated);
    RUN(test_keep_alive);
    RUN(test_no_further_than_the_request);
    return 0;
}
