/* http.h: a small, strict reader of HTTP/1 requests for anteroom leases. */
#ifndef HTTP_H
#define HTTP_H

#include <anteroom.h>
#include <stdbool.h>

enum { MAX_HEAD = 65536, MAX_FIELDS = 128, TIMEOUT_MS = 10000 };
#define MAX_BODY ((size_t)128 << 20)

struct http_field {
    char *name, *value; /* the name in lower case */
};

struct http_request {
    char *method, *target;
    bool http11, keep_alive;
    struct http_field fields[MAX_FIELDS];
    int field_count;
    char *body;
    size_t body_length;
};

/* What is read under one lease. */
struct http_reader {
    int fd;
    char *buffer, *head;
    size_t size, room;
    size_t used;  /* by the requests read so far */
    size_t limit; /* what may be read in all; 0: unknown */
};

void http_begin(struct http_reader *r, const anteroom_lease *lease);
void http_end(struct http_reader *r);

/* Reads the next request, which lives until the next call for this reader. Returns 0, or the status to refuse it with, or -1 if the client
 * has gone. */
int http_read(struct http_reader *r, struct http_request *request);

/* Whether something of a further request was read. */
bool http_pending(struct http_reader *r);

/* The value of a field, or NULL. */
const char *http_field(const struct http_request *request, const char *name);

/* Writes all of it, unless the client takes nothing for TIMEOUT_MS. */
bool http_write(int fd, const char *data, size_t size);

#endif
