/* The codec against the vectors that every implementation runs; the JSON that is found in payloads. */
#include "../anteroom.c"
#include "check.h"

#include <sys/stat.h>

#define VECTORS "../../handoff/testdata/vectors/"

/* A vector is looked at as if it were a payload. */
static char *field(const struct frame *vector, const char *name, char *buffer)
{
    struct text value, inside;
    CHECK(find_member(vector, name, &value));
    struct text number = value;
    if (!read_string(&value, &inside))
        inside = number;
    /* The vectors escape nothing but quotes. */
    char *to = buffer;
    for (const char *at = inside.at; at < inside.end; at++)
        if (*at != '\\')
            *to++ = *at;
    *to = '\0';
    return buffer;
}

static uint64_t number(const struct frame *vector, const char *name)
{
    char buffer[64];
    return strtoull(field(vector, name, buffer), NULL, 10);
}

/* As many bytes as the hexadecimal digits of the member say; the buffer is exactly so long, so that a sanitizer sees who reads beyond. */
static uint8_t *bytes(const struct frame *vector, const char *name, size_t *size)
{
    static char digits[65536];
    field(vector, name, digits);
    *size = strlen(digits) / 2;
    uint8_t *data = malloc(*size ? *size : 1);
    for (size_t i = 0; i < *size; i++)
        CHECK(sscanf(digits + 2 * i, "%2hhx", &data[i]) == 1);
    return data;
}

static void for_each(const char *path, void (*check)(const struct frame *))
{
    static char content[1 << 20];
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    struct text all = {content, content + fread(content, 1, sizeof(content), file)};
    fclose(file);
    int count = 0;
    CHECK(skip_char(&all, '['));
    do {
        skip_space(&all);
        struct frame vector = {.payload = all.at};
        CHECK(skip_value(&all));
        vector.length = (uint16_t)(all.at - vector.payload);
        check(&vector);
        count++;
    } while (skip_char(&all, ','));
    CHECK(skip_char(&all, ']') && count > 5);
}

static void check_frame(const struct frame *v)
{
    char payload[8193];
    struct frame f = {
        .type = (uint8_t)number(v, "type"), .flags = (uint8_t)number(v, "flags"), .seq = (uint32_t)number(v, "seq"), .conn = number(v, "conn"),
        .a = number(v, "a"), .b = number(v, "b"), .payload = field(v, "payload", payload)
    }, read;
    f.length = (uint16_t)strlen(payload);
    size_t size;
    uint8_t *data = bytes(v, "hex", &size), *ours = malloc(size);
    CHECK(encode(ours, &f) == size && memcmp(ours, data, size) == 0);
    CHECK(decode(data, size, &read) == (int)size);
    CHECK(read.type == f.type && read.flags == f.flags && read.seq == f.seq && read.conn == f.conn && read.a == f.a && read.b == f.b);
    CHECK(read.length == f.length && memcmp(read.payload, payload, f.length) == 0);
    for (size_t part = 0; part < size; part++)
        CHECK(decode(data, part, &read) == 0);
    free(data);
    free(ours);
}

static void check_bad(const struct frame *v)
{
    char want[32];
    struct frame f;
    size_t size;
    uint8_t *data = bytes(v, "hex", &size);
    int length = decode(data, size, &f);
    field(v, "want", want);
    CHECK(strcmp(want, "more") == 0 ? length == 0 : length < 0 && strcmp(want, code_name((uint64_t)-length)) == 0);
    free(data);
}

static void test_vectors(void)
{
    for_each(VECTORS "frames.json", check_frame);
    for_each(VECTORS "incomplete_and_bad.json", check_bad);
}

static bool found(const char *json, const char *name, const char *want)
{
    size_t length = strlen(json);
    char *exact = malloc(length ? length : 1); /* without a NUL */
    memcpy(exact, json, length);
    struct text value;
    bool same_value = find_member(&(struct frame){.payload = exact, .length = (uint16_t)length}, name, &value) && want != NULL && same(&value, want);
    free(exact);
    return same_value;
}

static void test_json(void)
{
    CHECK(found("{\"a\":1,\"b\":\"x\"}", "b", "\"x\""));
    CHECK(found(" { \"a\" : [ {\"b\":1}, \"]\\\"\" ] , \"b\" : -2.5e3 } ", "b", "-2.5e3"));
    CHECK(found("{\"a\":{\"b\":2},\"b\":null}", "b", "null"));
    CHECK(found("{\"b\":[[],{}]}", "b", "[[],{}]"));
    static const char *const nothing[] = {"", "{", "}", "[]", "{}", "{\"b\"", "{\"b\":", "{\"b\":\"", "{\"b\":\"\\", "{\"b\":[", "{\"b\":]}", "{\"a\":1 \"b\":2}", "null"};
    for (size_t i = 0; i < sizeof(nothing) / sizeof(*nothing); i++)
        CHECK(!found(nothing[i], "b", NULL) && !found(nothing[i], "b", "2"));
}

static void test_lists(void)
{
    static const char list[] = "[\"cache\", \"finish\"]";
    struct text t = {list, list + sizeof(list) - 1};
    CHECK(list_has(t, "cache") && list_has(t, "finish") && !list_has(t, "fin"));
}

/* Payloads with some bytes changed, on the heap and without an end mark, so that a sanitizer sees who reads beyond. */
static void test_mutated_json(void)
{
    static const char good[] = "{\"a\":{\"b\":[1,\"x\\\"\"]},\"features\":[\"cache\",\"finish\"],\"peer\":\"192.0.2.1:80\"}";
    static const char spice[] = "\"\\{}[]:, 0a";
    unsigned seed = 1;
    for (int round = 0; round < 20000; round++) {
        size_t size = (size_t)rand_r(&seed) % sizeof(good);
        char *data = malloc(size ? size : 1);
        memcpy(data, good, size);
        for (int change = rand_r(&seed) % 4; size > 0 && change > 0; change--)
            data[(size_t)rand_r(&seed) % size] = spice[(size_t)rand_r(&seed) % (sizeof(spice) - 1)];
        struct frame f = {.payload = data, .length = (uint16_t)size};
        struct text value;
        struct entry e = {0};
        if (find_member(&f, "features", &value))
            list_has(value, "finish");
        read_peer(&e, &f);
        CHECK(strlen(e.peer) < sizeof(e.peer));
        free(data);
    }
}

int main(void)
{
    RUN(test_vectors);
    RUN(test_json);
    RUN(test_lists);
    RUN(test_mutated_json);
    return 0;
}
