/* http.c: see http.h. What could be read in two ways is refused. */
#define _GNU_SOURCE
#include "http.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

enum { READ_SIZE = 65536, MAX_LINE = 4096 };

/* Results of reading, beside 0 and the statuses. */
enum { GONE = -1 };

void http_begin(struct http_reader *r, const anteroom_lease *lease)
{
    *r = (struct http_reader){.fd = lease->fd, .limit = lease->request_length ? lease->request_length : lease->head_length};
}

void http_end(struct http_reader *r)
{
    free(r->buffer);
    free(r->head);
}

static bool wait_for(int fd, short events)
{
    struct pollfd what = {.fd = fd, .events = events};
    int ready;
    do
        ready = poll(&what, 1, TIMEOUT_MS);
    while (ready < 0 && errno == EINTR);
    return ready > 0;
}

/* Reads more. A NUL always follows what was read. */
static int fill(struct http_reader *r)
{
    if (r->size + READ_SIZE + 1 > r->room) {
        size_t room = r->size + READ_SIZE + 1 + r->size / 2;
        char *buffer = realloc(r->buffer, room);
        if (buffer == NULL)
            return 503;
        r->buffer = buffer;
        r->room = room;
    }
    size_t want = r->limit > r->size && r->limit - r->size < READ_SIZE ? r->limit - r->size : READ_SIZE;
    for (;;) {
        ssize_t got = recv(r->fd, r->buffer + r->size, want, MSG_DONTWAIT);
        if (got > 0) {
            r->size += (size_t)got;
            r->buffer[r->size] = '\0';
            return 0;
        }
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            return GONE;
        if (!wait_for(r->fd, POLLIN))
            return 408;
    }
}

bool http_pending(struct http_reader *r)
{
    while (r->used < r->size && (r->buffer[r->used] == '\r' || r->buffer[r->used] == '\n'))
        r->used++;
    return r->used < r->size;
}

/* Drops what is behind us. */
static void compact(struct http_reader *r)
{
    if (r->used == 0)
        return;
    /* what was read of a further request was read beyond the one whose length was known */
    memmove(r->buffer, r->buffer + r->used, r->size - r->used + 1);
    r->size -= r->used;
    r->limit = 0;
    r->used = 0;
}

static bool is_token(const char *text)
{
    size_t length = strspn(text, "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    return length > 0 && text[length] == '\0';
}

static bool is_target(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++)
        if (*c <= ' ' || *c == 0x7f)
            return false;
    return *text != '\0';
}

static bool is_value(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++)
        if ((*c < ' ' && *c != '\t') || *c == 0x7f)
            return false;
    return true;
}

static int parse_line(char *line, struct http_request *q)
{
    char *target = strchr(line, ' ');
    char *version = target ? strchr(target + 1, ' ') : NULL;
    if (version == NULL)
        return 400;
    *target++ = *version++ = '\0';
    q->method = line;
    q->target = target;
    q->http11 = strcmp(version, "HTTP/1.1") == 0;
    return is_token(line) && is_target(target) && (q->http11 || strcmp(version, "HTTP/1.0") == 0) ? 0 : 400;
}

static int parse_field(char *line, struct http_request *q)
{
    char *value = strchr(line, ':');
    if (value == NULL)
        return 400;
    *value++ = '\0';
    value += strspn(value, " \t");
    for (size_t end = strlen(value); end > 0 && (value[end - 1] == ' ' || value[end - 1] == '\t'); end--)
        value[end - 1] = '\0';
    if (!is_token(line) || !is_value(value))
        return 400;
    if (q->field_count == MAX_FIELDS)
        return 431;
    for (char *c = line; *c != '\0'; c++)
        *c = (char)tolower((unsigned char)*c);
    q->fields[q->field_count++] = (struct http_field){line, value};
    return 0;
}

/* Parses the head, which ends with a NUL in place of its empty line. */
static int parse_head(char *head, size_t length, struct http_request *q)
{
    if (strlen(head) != length)
        return 400; /* a NUL within */
    int status = 0;
    char *next = head;
    for (int line = 0; next != NULL && status == 0; line++) {
        char *at = next;
        next = strstr(at, "\r\n");
        if (next != NULL) {
            *next = '\0';
            next += 2;
        }
        status = line == 0 ? parse_line(at, q) : parse_field(at, q);
    }
    return status;
}

const char *http_field(const struct http_request *q, const char *name)
{
    for (int i = 0; i < q->field_count; i++)
        if (strcmp(q->fields[i].name, name) == 0)
            return q->fields[i].value;
    return NULL;
}

static int count_fields(const struct http_request *q, const char *name)
{
    int count = 0;
    for (int i = 0; i < q->field_count; i++)
        count += strcmp(q->fields[i].name, name) == 0;
    return count;
}

/* Whether a Connection field has the option. */
static bool has_option(const struct http_request *q, const char *option)
{
    size_t length = strlen(option);
    for (int i = 0; i < q->field_count; i++) {
        if (strcmp(q->fields[i].name, "connection") != 0)
            continue;
        for (const char *at = q->fields[i].value; *at != '\0'; at += strcspn(at, ",")) {
            at += strspn(at, ", \t");
            if (strncasecmp(at, option, length) == 0 && strchr(", \t", at[length]) != NULL)
                return true;
        }
    }
    return false;
}

/* What the head says of the body: its length, or that it is chunked. */
static int frame_body(const struct http_request *q, bool *chunked)
{
    const char *encoding = http_field(q, "transfer-encoding"), *length = http_field(q, "content-length");
    int hosts = count_fields(q, "host");
    *chunked = encoding != NULL;
    if (hosts > 1 || (q->http11 && hosts == 0))
        return 400;
    if (encoding != NULL) {
        if (length != NULL || !q->http11)
            return 400;
        return count_fields(q, "transfer-encoding") == 1 && strcasecmp(encoding, "chunked") == 0 ? 0 : 501;
    }
    if (length == NULL)
        return 0;
    size_t digits = strspn(length, "0123456789");
    return count_fields(q, "content-length") == 1 && digits > 0 && digits <= 18 && length[digits] == '\0' ? 0 : 400;
}

/* Makes sure that `size` bytes are there from `at` on, which may be beyond what was used. */
static int need(struct http_reader *r, size_t at, size_t size)
{
    int status = 0;
    while (status == 0 && r->size - at < size)
        status = fill(r);
    return status;
}

/* Finds the end of the line at `at`, which must be CRLF. */
static int need_line(struct http_reader *r, size_t at, size_t *end)
{
    char *found;
    while (at == r->size || (found = memchr(r->buffer + at, '\n', r->size - at)) == NULL) {
        if (r->size - at > MAX_LINE)
            return 400;
        int status = fill(r);
        if (status != 0)
            return status;
    }
    *end = (size_t)(found - r->buffer);
    if (*end - at > MAX_LINE || *end == at || r->buffer[*end - 1] != '\r' || memchr(r->buffer + at, '\r', *end - 1 - at) != NULL)
        return 400;
    return 0;
}

static int parse_chunk_size(const char *line, size_t *size)
{
    size_t digits = strspn(line, "0123456789abcdefABCDEF");
    const char *behind = line + digits + strspn(line + digits, " \t");
    if (digits == 0 || digits > 8 || (*behind != ';' && *behind != '\r'))
        return 400;
    *size = strtoul(line, NULL, 16);
    return 0;
}

/* Reads a chunked body, moving its chunks together at `start`. */
static int read_chunks(struct http_reader *r, size_t start, size_t *length)
{
    size_t at = start, end, size;
    int status;
    *length = 0;
    do {
        if ((status = need_line(r, at, &end)) != 0 || (status = parse_chunk_size(r->buffer + at, &size)) != 0)
            return status;
        at = end + 1;
        if (*length + size > MAX_BODY)
            return 413;
        if (size == 0)
            break;
        if ((status = need(r, at, size + 2)) != 0)
            return status;
        memmove(r->buffer + start + *length, r->buffer + at, size);
        *length += size;
        at += size;
        if (memcmp(r->buffer + at, "\r\n", 2) != 0)
            return 400;
        at += 2;
    } while (true);
    size_t trailers = at;
    do {
        if ((status = need_line(r, at, &end)) != 0)
            return status;
        size = end - at;
        at = end + 1;
        if (at - trailers > MAX_HEAD)
            return 431;
    } while (size > 1); /* more than its CR */
    r->used = at;
    return 0;
}

static int read_body(struct http_reader *r, struct http_request *q, size_t start)
{
    bool chunked;
    int status = frame_body(q, &chunked);
    if (status != 0)
        return status;
    const char *text = http_field(q, "content-length"), *expect = http_field(q, "expect");
    size_t length = text ? strtoul(text, NULL, 10) : 0;
    if (length > MAX_BODY)
        return 413;
    bool here = !chunked && r->size - start >= length;
    if (q->http11 && expect != NULL && strcasecmp(expect, "100-continue") == 0 && !here)
        http_write(r->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    if (chunked)
        return read_chunks(r, start, &q->body_length);
    q->body_length = length;
    r->used = start + length;
    return need(r, start, length);
}

static int read_head(struct http_reader *r, size_t *length)
{
    size_t seen = 0; /* bytes of it in which there is no empty line */
    for (;;) {
        http_pending(r); /* skips empty lines before it */
        size_t have = r->size - r->used;
        char *end = have < 4 ? NULL : memmem(r->buffer + r->used + seen, have - seen, "\r\n\r\n", 4);
        *length = end ? (size_t)(end - r->buffer) - r->used : have;
        if (*length > MAX_HEAD)
            return 431;
        if (end != NULL)
            return 0;
        seen = have > 3 ? have - 3 : 0;
        int status = fill(r);
        if (status != 0)
            return status;
    }
}

int http_read(struct http_reader *r, struct http_request *q)
{
    size_t length;
    memset(q, 0, sizeof(*q));
    compact(r);
    int status = read_head(r, &length);
    if (status != 0)
        return status;
    char *head = realloc(r->head, length + 1); /* a copy, for the buffer may move while the body is read */
    if (head == NULL)
        return 503;
    r->head = head;
    memcpy(head, r->buffer + r->used, length);
    head[length] = '\0';
    if ((status = parse_head(head, length, q)) != 0)
        return status;
    q->keep_alive = !has_option(q, "close") && (q->http11 || has_option(q, "keep-alive"));
    size_t start = r->used + length + 4;
    status = read_body(r, q, start);
    q->body = r->buffer + start;
    return status;
}

bool http_write(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN) {
            if (!wait_for(fd, POLLOUT))
                return false;
        } else if (sent >= 0) {
            data += sent;
            size -= (size_t)sent;
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}
