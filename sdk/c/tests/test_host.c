/* A host against a sidecar that is played by hand. Each test ends with as many descriptors as it began with. */
#include "../anteroom.c"
#include "fake.h"

#include <dirent.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { FILES = 256 }; /* the limit of open files in this program */

static char path[64], lines[4096];
static pthread_mutex_t lines_lock = PTHREAD_MUTEX_INITIALIZER;
static int listener, client, served; /* the two ends of a client's connection */
static struct peer peer;

static void note(void *data, const char *line)
{
    (void)data;
    pthread_mutex_lock(&lines_lock);
    size_t used = strlen(lines);
    snprintf(lines + used, sizeof(lines) - used, "%s\n", line);
    pthread_mutex_unlock(&lines_lock);
}

static bool noted(const char *text)
{
    pthread_mutex_lock(&lines_lock);
    bool there = strstr(lines, text) != NULL;
    pthread_mutex_unlock(&lines_lock);
    return there;
}

#define EVENTUALLY(condition)                                       \
    do {                                                            \
        int64_t begin_ = now_ms();                                  \
        while (!(condition)) {                                      \
            CHECK(now_ms() - begin_ < PATIENCE_MS ); \
            poll(NULL, 0, 2);                                       \
        }                                                           \
    } while (0)

static int descriptors(void)
{
    int count = 0;
    DIR *all = opendir("/proc/self/fd");
    while (readdir(all) != NULL)
        count++;
    closedir(all);
    return count;
}

/* Hosts of the past may have tried again, and wait in the backlog though they have gone. */
static void listen_anew(void)
{
    if (listener > 0)
        close(listener);
    listener = fake_listen(path);
}

static void connect_client(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int door = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(door, (struct sockaddr *)&address, size) == 0 && listen(door, 1) == 0 && getsockname(door, (struct sockaddr *)&address, &size) == 0);
    client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(client, (struct sockaddr *)&address, size) == 0);
    served = accept4(door, NULL, NULL, SOCK_NONBLOCK);
    CHECK(served >= 0);
    close(door);
}

static anteroom *start(int capacity, int cache, const char *features)
{
    anteroom *h = anteroom_new(&(anteroom_options){.path = path, .pool = "web", .name = "test", .capacity = capacity, .cache = cache, .log = note});
    CHECK(h != NULL && anteroom_attach(h, 0) == 0);
    fake_welcome(&peer, listener, features);
    CHECK(anteroom_attach(h, PATIENCE_MS) == 0);
    return h;
}

#define ALL "\"cache\",\"address\",\"finish\""

static anteroom_lease lend(anteroom *h, uint64_t conn, uint32_t seq, int fd)
{
    anteroom_lease lease;
    fake_send(&peer, (struct frame){.type = LEASE, .conn = conn, .seq = seq}, fd);
    CHECK(anteroom_next(h, &lease, PATIENCE_MS) == 1 && lease.conn == conn && lease.seq == seq);
    return lease;
}

static void finish(anteroom *h)
{
    anteroom_free(h);
    close(peer.fd);
}

static void test_hello(void)
{
    anteroom *h = start(3, 0, ALL);
    CHECK(strstr(peer.payload, "\"name\":\"test\",\"pool\":\"web\",\"capacity\":3,\"features\":[\"cache\",\"address\",\"finish\"]") != NULL);
    CHECK(noted("attached to the sidecar at ") && anteroom_may_finish(h) == 1);
    finish(h);
}

static void test_options(void)
{
    setenv("ANTEROOM_CAPACITY", "9", 1);
    setenv("ANTEROOM_POOL", "p", 1);
    anteroom *h = anteroom_new(NULL);
    CHECK(h->capacity == 9 && strcmp(h->pool, "p") == 0 && strcmp(h->path, DEFAULT_PATH) == 0);
    anteroom_free(h);
    setenv("ANTEROOM_CAPACITY", "9x", 1);
    CHECK(anteroom_new(&(anteroom_options){.log = note}) == NULL && errno == EINVAL);
    unsetenv("ANTEROOM_CAPACITY");
    unsetenv("ANTEROOM_POOL");
    static const anteroom_options wrong[] = {{.capacity = 4097, .log = note}, {.capacity = -1, .log = note}, {.name = "a b", .log = note},
                                             {.pool = "a\"b", .log = note}, {.cache = 65537, .log = note}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        CHECK(anteroom_new(&wrong[i]) == NULL && errno == EINVAL);
    CHECK(noted("the capacity must be 1 to 4096"));
    char longest[200];
    memset(longest, 'x', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    CHECK(anteroom_new(&(anteroom_options){.path = longest, .log = note}) == NULL && errno == ENAMETOOLONG);
}

static void check_path(const char *given, const char *wanted)
{
    anteroom *h = anteroom_new(&(anteroom_options){.path = given, .log = note});
    CHECK(h != NULL && strcmp(h->path, wanted) == 0);
    anteroom_free(h);
}

static void test_an_address_as_the_sidecar_writes_it(void)
{
    check_path("unix:///run/h.sock", "/run/h.sock");
    setenv("ANTEROOM_HANDOFF", "unix:///run/h.sock", 1);
    check_path(NULL, "/run/h.sock");
    unsetenv("ANTEROOM_HANDOFF");
    static const char *const as_they_stand[] = {"relative.sock", "unix://relative.sock", "/unix:///a.sock"};
    for (size_t i = 0; i < sizeof(as_they_stand) / sizeof(*as_they_stand); i++)
        check_path(as_they_stand[i], as_they_stand[i]);
}

static void test_facts_of_a_lease(void)
{
    anteroom *h = start(1, 0, ALL);
    anteroom_lease lease;
    fake_send(&peer, (struct frame){.type = LEASE, .flags = 0x06, .conn = (UINT64_C(1) << 53) - 1, .seq = UINT32_MAX, .a = UINT64_C(30) << 32 | 20, .b = 5,
                                    .payload = "{\"peer\":\"[2001:db8::1]:80\"}"}, served);
    CHECK(anteroom_next(h, &lease, PATIENCE_MS) == 1 && lease.flags == (ANTEROOM_FRESH | ANTEROOM_LAST) && lease.conn == (UINT64_C(1) << 53) - 1);
    CHECK(lease.head_length == 20 && lease.request_length == 30 && lease.waited_us == 5 && strcmp(lease.peer, "[2001:db8::1]:80") == 0);
    CHECK(fcntl(lease.fd, F_GETFD) == FD_CLOEXEC && anteroom_next(h, &(anteroom_lease){0}, 10) == 0);
    CHECK(anteroom_close(h, &lease, ANTEROOM_APP, 4) == 1 && lease.fd == -1);
    struct frame f = fake_expect(&peer, CLOSE);
    CHECK(f.a == ANTEROOM_APP && f.b == 4 && f.seq == UINT32_MAX);
    finish(h);
}

static void test_put_and_the_next_lease_without_a_descriptor(void)
{
    anteroom *h = start(1, 0, ALL);
    anteroom_lease lease = lend(h, 1, 4, served);
    int fd = lease.fd;
    CHECK(anteroom_put(h, &lease, 1500, 2) == 1 && anteroom_put(h, &lease, 0, 1) == 0);
    struct frame f = fake_expect(&peer, PUT);
    CHECK(f.conn == 1 && f.seq == 4 && f.a == 1500 && f.b == 2);
    lease = lend(h, 1, 5, -1);
    CHECK(lease.fd == fd && write(lease.fd, "x", 1) == 1 && readable(client, PATIENCE_MS));
    CHECK(anteroom_put(h, &lease, UINT64_MAX, 1) == 1 && fake_expect(&peer, PUT).a == MAX_KEEP_ALIVE_MS);
    lease = lend(h, 1, 6, served); /* with one, though we hold one */
    CHECK(anteroom_nack(h, &lease) == 1 && fake_expect(&peer, NACK).a == NACK_OVERLOAD);
    fake_send(&peer, (struct frame){.type = LEASE, .conn = 1, .seq = 7}, -1);
    CHECK(fake_expect(&peer, NACK).a == NACK_UNKNOWN);
    finish(h);
}

static void test_without_cache(void)
{
    int before = descriptors();
    anteroom *h = start(1, -1, "\"address\"");
    CHECK(strstr(peer.payload, "cache") == NULL);
    int attached = descriptors();
    anteroom_lease lease = lend(h, 1, 1, served);
    CHECK(anteroom_finish(h, &lease, served, 0, 1, 0, 0) == -1 && errno == EOPNOTSUPP);
    CHECK(anteroom_put(h, &lease, 0, 1) == 1 && descriptors() == attached);
    fake_expect(&peer, PUT);
    finish(h);
    CHECK(descriptors() == before);
}

static void test_a_full_cache_drops_the_oldest(void)
{
    anteroom *h = start(4, 2, ALL);
    for (uint64_t conn = 1; conn <= 3; conn++) {
        anteroom_lease lease = lend(h, conn, 1, served);
        anteroom_put(h, &lease, 0, 1);
        fake_expect(&peer, PUT);
    }
    CHECK(fake_expect(&peer, DROPPED).conn == 1);
    anteroom_lease lease = lend(h, 2, 2, -1);
    anteroom_put(h, &lease, 0, 1);
    fake_expect(&peer, PUT);
    lease = lend(h, 4, 1, served);
    anteroom_put(h, &lease, 0, 1);
    fake_expect(&peer, PUT);
    CHECK(fake_expect(&peer, DROPPED).conn == 3);
    finish(h);
}

static void test_finish(void)
{
    anteroom *h = start(1, 0, ALL);
    anteroom_lease lease = lend(h, 1, 1, served);
    CHECK(anteroom_finish(h, &lease, client, 3, 5, 9000, 1) == 1);
    struct frame f = fake_expect(&peer, FINISH);
    struct stat sent, came;
    CHECK(f.flags == (FLAG_FD | FLAG_CLOSE) && f.a == 3 && f.b == 5 && fstat(client, &sent) == 0 && fstat(peer.descriptor, &came) == 0);
    CHECK(sent.st_ino == came.st_ino && f.length == 0);
    close(peer.descriptor);
    lease = lend(h, 2, 1, served);
    CHECK(anteroom_finish(h, &lease, client, 0, 1, 9000, 0) == 1);
    CHECK(fake_expect(&peer, FINISH).conn == 2 && strcmp(peer.payload, "{\"keep_alive_timeout_ms\":9000}") == 0);
    close(peer.descriptor);
    lease = lend(h, 2, 2, -1); /* it was kept */
    anteroom_put(h, &lease, 0, 1);
    finish(h);
}

static void test_detach(void)
{
    int fd, none;
    anteroom *h = start(1, 0, ALL);
    anteroom_lease lease = lend(h, 1, 1, served);
    CHECK(anteroom_detach(h, &lease, &fd) == 1 && anteroom_detach(h, &lease, &none) == 0 && none == -1);
    fake_expect(&peer, DETACH);
    CHECK(write(fd, "x", 1) == 1);
    close(fd);
    finish(h);
}

static void test_forget(void)
{
    char byte;
    anteroom *h = start(2, 0, ALL);
    anteroom_lease idle = lend(h, 1, 1, served), out = lend(h, 2, 1, served), queued;
    anteroom_put(h, &idle, 0, 1);
    fake_expect(&peer, PUT);
    fake_send(&peer, (struct frame){.type = LEASE, .conn = 3, .seq = 1}, served);
    for (uint64_t conn = 1; conn <= 4; conn++)
        fake_send(&peer, (struct frame){.type = FORGET, .conn = conn, .a = 5}, -1);
    CHECK(fake_quiet(&peer) && anteroom_next(h, &queued, 0) == 0);
    CHECK(recv(out.fd, &byte, 1, MSG_DONTWAIT) == 0 && send(out.fd, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE); /* severed */
    CHECK(!readable(client, 20));                                                                               /* and not shut down */
    CHECK(anteroom_put(h, &out, 0, 1) == 0 && fake_quiet(&peer));
    finish(h);
}

static void test_capacity(void)
{
    anteroom *h = start(2, 0, ALL);
    CHECK(anteroom_capacity(h, 0) == 0 && fake_expect(&peer, CAPACITY).a == 0);
    CHECK(anteroom_capacity(h, 4097) == -1 && errno == EINVAL);
    close(peer.fd);
    fake_welcome(&peer, listener, ALL);
    CHECK(fake_expect(&peer, CAPACITY).a == 0); /* a HELLO cannot say so */
    finish(h);
}

static void test_drain(void)
{
    anteroom_lease none;
    anteroom *h = start(2, 0, ALL);
    anteroom_lease lease = lend(h, 1, 1, served);
    anteroom_drain(h);
    fake_expect(&peer, DRAIN);
    anteroom_lease crossed = lend(h, 2, 1, served);
    CHECK(anteroom_put(h, &crossed, 0, 1) == 1 && anteroom_next(h, &none, 10) == 0 && anteroom_join(h, 10) == -1 && errno == ETIMEDOUT);
    fake_send(&peer, (struct frame){.type = DRAINING, .a = 1}, -1);
    CHECK(anteroom_next(h, &none, PATIENCE_MS) == -1 && errno == ESHUTDOWN);
    CHECK(anteroom_put(h, &lease, 0, 1) == 1);
    fake_expect(&peer, PUT);
    fake_expect(&peer, PUT);
    close(peer.fd);
    CHECK(anteroom_join(h, PATIENCE_MS) == 0);
    anteroom_free(h);
}

static void test_nobody_there(void)
{
    char trouble[512];
    anteroom_lease none;
    anteroom *h = anteroom_new(&(anteroom_options){.path = "/nowhere/handoff.sock", .log = note});
    CHECK(anteroom_attach(h, 20) == -1 && errno == ETIMEDOUT);
    EVENTUALLY((anteroom_trouble(h, trouble, sizeof(trouble)),
                strstr(trouble, "Cannot connect to the handoff socket /nowhere/handoff.sock: No such file or directory. Start the sidecar") != NULL));
    anteroom_drain(h);
    CHECK(anteroom_next(h, &none, PATIENCE_MS) == -1 && errno == ESHUTDOWN && anteroom_join(h, PATIENCE_MS) == 0);
    anteroom_free(h);
}

static void test_no_permission(void)
{
    anteroom *h = anteroom_new(&(anteroom_options){.path = "/h", .log = note});
    CHECK(h != NULL);
    complain_of_connect(h, EACCES);
    CHECK(strstr(h->trouble, "socket /h: Permission denied. ") && strstr(h->trouble, "handoff-allow-uid") && strstr(h->trouble, "handoff-allow-gid"));
    anteroom_free(h);
}

static void test_a_sidecar_that_ends_is_agreed_with_and_its_successor_found(void)
{
    anteroom *h = start(1, 0, ALL);
    fake_send(&peer, (struct frame){.type = DRAINING}, -1);
    fake_expect(&peer, DRAIN);
    fake_send(&peer, (struct frame){.type = DRAINING}, -1);
    close(peer.fd);
    fake_welcome(&peer, listener, ALL);
    anteroom_lease lease = lend(h, 1, 1, served);
    CHECK(anteroom_put(h, &lease, 0, 1) == 1);
    finish(h);
}

static void test_after_a_lost_link_leases_can_be_served_and_not_put(void)
{
    anteroom *h = start(3, 0, ALL);
    anteroom_lease idle = lend(h, 1, 1, served), out = lend(h, 2, 1, served), queued;
    anteroom_put(h, &idle, 0, 1);
    fake_expect(&peer, PUT);
    fake_send(&peer, (struct frame){.type = LEASE, .conn = 3, .seq = 1}, served);
    CHECK(fake_quiet(&peer));
    close(peer.fd);
    fake_welcome(&peer, listener, ALL);
    fake_send(&peer, (struct frame){.type = LEASE, .conn = 2, .seq = 1}, served); /* the successor's numbers may be the same */
    CHECK(fake_quiet(&peer));
    CHECK(write(out.fd, "x", 1) == 1 && anteroom_put(h, &out, 0, 1) == 0);
    CHECK(anteroom_next(h, &queued, PATIENCE_MS) == 1 && queued.conn == 3); /* it had arrived, and its client waits */
    CHECK(write(queued.fd, "x", 1) == 1 && anteroom_close(h, &queued, ANTEROOM_DONE, 1) == 0 && fake_quiet(&peer));
    CHECK(anteroom_next(h, &queued, PATIENCE_MS) == 1 && queued.conn == 2 && anteroom_put(h, &queued, 0, 1) == 1);
    finish(h);
}

static void expect_end(const char *trouble)
{
    char text[512];
    listen_anew();
    anteroom *h = anteroom_new(&(anteroom_options){.path = path, .log = note});
    CHECK(anteroom_attach(h, 0) == 0);
    fake_accept(&peer, listener);
    fake_expect(&peer, HELLO);
    if (strstr(trouble, "AT_LIMIT") != NULL)
        fake_send(&peer, (struct frame){.type = REFUSE, .a = 12, .payload = "64 hosts are attached"}, -1);
    else if (strstr(trouble, "no frame") != NULL)
        fake_write(&peer, (const uint8_t *)"HTTP/1.1 400 Bad Request\r\nServer: other\r\n", 42, NULL, 0);
    else if (strstr(trouble, "did not come") != NULL)
        fake_send(&peer, (struct frame){.type = LEASE, .flags = FLAG_FD}, -1);
    else {
        uint8_t data[HEADER];
        fake_write(&peer, data, encode(data, &(struct frame){.type = LEASE, .flags = FLAG_FD}), (int[]){served, served}, 2);
    }
    CHECK(fake_hung_up(&peer));
    EVENTUALLY((anteroom_trouble(h, text, sizeof(text)), strstr(text, trouble) != NULL));
    EVENTUALLY(noted(trouble));
    finish(h);
}

static void test_ends(void)
{
    expect_end("The sidecar refuses this host: AT_LIMIT: 64 hosts are attached.");
    expect_end("The sidecar sent what is no frame: TOO_LONG.");
    expect_end("The sidecar announced a descriptor that did not come.");
    expect_end("The sidecar sent 2 descriptors in one message.");
}

static void test_frames_cut_and_merged(void)
{
    anteroom *h = start(8, 0, ALL);
    anteroom_lease lease;
    uint8_t data[4 * HEADER];
    struct frame f = {.type = LEASE, .conn = 5, .seq = 1, .flags = FLAG_FD};
    encode(data, &f);
    fake_write(&peer, data, 10, &served, 1);
    poll(NULL, 0, 5);
    fake_write(&peer, data + 10, HEADER - 10, NULL, 0);
    size_t size = encode(data, &(struct frame){.type = 0x7e, .a = 1}); /* a word of a later version */
    size += encode(data + size, &(struct frame){.type = PING, .a = 8});
    fake_write(&peer, data, size, NULL, 0);
    f.conn = 6;
    fake_write(&peer, data, encode(data, &f), &client, 1);
    fake_write(&peer, data, encode(data, &(struct frame){.type = 0x7f, .flags = FLAG_FD}), &client, 1);
    struct stat wanted[2], came;
    CHECK(fstat(served, &wanted[0]) == 0 && fstat(client, &wanted[1]) == 0);
    CHECK(fake_expect(&peer, PONG).a == 8);
    for (uint64_t i = 0; i < 2; i++) {
        CHECK(anteroom_next(h, &lease, PATIENCE_MS) == 1 && lease.conn == 5 + i && fstat(lease.fd, &came) == 0 && came.st_ino == wanted[i].st_ino);
        anteroom_put(h, &lease, 0, 1);
    }
    fake_expect(&peer, PUT);
    fake_expect(&peer, PUT);
    CHECK(fake_quiet(&peer));
    finish(h);
}

/* Sets the limit of open files. At 3 no descriptor can be opened, and poll(2) can still wait for two. */
static void limit_descriptors(rlim_t files)
{
    CHECK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){files, FILES}) == 0);
}

static void expect_nack(uint64_t conn)
{
    struct frame f = fake_expect(&peer, NACK);
    CHECK(f.conn == conn && f.a == NACK_NO_DESCRIPTOR);
}

static void test_out_of_descriptors_it_lets_go_of_what_it_keeps_and_says_so_once(void)
{
    anteroom *h = start(1, 0, ALL);
    for (uint64_t conn = 1; conn <= 80; conn++) {
        anteroom_lease lease = lend(h, conn, 1, served);
        CHECK(anteroom_put(h, &lease, 0, 1) == 1);
        fake_expect(&peer, PUT);
    }
    int before = descriptors();
    limit_descriptors(3);
    fake_send(&peer, (struct frame){.type = LEASE, .conn = 81, .seq = 1}, served);
    for (uint64_t conn = 1; conn <= 20; conn++) /* a quarter */
        CHECK(fake_expect(&peer, DROPPED).conn == conn);
    expect_nack(81);
    CHECK(noted("no descriptor left for a connection (its limit is 3); 20 idle ones that it kept were let go of. Raise the limit"));
    lines[0] = '\0';
    for (uint32_t seq = 2; seq <= 5; seq++) { /* 16 of the 60 at least, or all that there are */
        fake_send(&peer, (struct frame){.type = LEASE, .conn = 81, .seq = seq}, served);
        for (int i = 0; i < (seq < 5 ? 16 : 12); i++)
            fake_expect(&peer, DROPPED);
        expect_nack(81);
    }
    limit_descriptors(FILES);
    CHECK(descriptors() == before - 80 && !noted("descriptor"));
    anteroom_lease lease = lend(h, 81, 6, served);
    CHECK(anteroom_put(h, &lease, 0, 1) == 1);
    finish(h);
}

static void test_out_of_descriptors_with_nothing_to_let_go_of(void)
{
    anteroom *h = start(1, -1, ALL);
    limit_descriptors(3);
    fake_send(&peer, (struct frame){.type = LEASE, .conn = 7, .seq = 1}, served);
    expect_nack(7);
    limit_descriptors(FILES);
    CHECK(noted("; 0 idle ones that it kept"));
    anteroom_lease lease = lend(h, 7, 2, served);
    CHECK(anteroom_put(h, &lease, 0, 1) == 1);
    finish(h);
}

enum { WORKERS = 4, ROUNDS = 2000 };

static void *serve_rounds(void *host)
{
    anteroom_lease lease;
    while (anteroom_next(host, &lease, -1) == 1)
        anteroom_put(host, &lease, 0, 1);
    return NULL;
}

/* The next frame that is not DROPPED. */
static struct frame expect_beside_dropped(enum type type)
{
    struct frame f;
    do
        f = fake_read(&peer);
    while (f.type == DROPPED);
    CHECK(f.type == type);
    return f;
}

/* Many threads, with forgotten connections in between; for the sanitizers. */
static void test_many_threads(void)
{
    anteroom *h = start(WORKERS, 3, ALL);
    pthread_t workers[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        CHECK(pthread_create(&workers[i], NULL, serve_rounds, h) == 0);
    uint32_t seq[16] = {0};
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t conn = round % 16;
        fake_send(&peer, (struct frame){.type = LEASE, .conn = conn, .seq = ++seq[conn]}, served);
        struct frame f = expect_beside_dropped(PUT);
        CHECK(f.conn == conn && f.seq == seq[conn]);
        if (round % 3 == 0)
            fake_send(&peer, (struct frame){.type = FORGET, .conn = conn, .a = 3}, -1);
    }
    anteroom_drain(h);
    expect_beside_dropped(DRAIN);
    fake_send(&peer, (struct frame){.type = DRAINING}, -1);
    for (int i = 0; i < WORKERS; i++)
        pthread_join(workers[i], NULL);
    finish(h);
}

static void run_one(void (*test)(void), const char *name)
{
    fprintf(stderr, "%s\n", name);
    lines[0] = '\0';
    listen_anew();
    connect_client();
    int before = descriptors();
    test();
    CHECK(descriptors() == before);
    close(client);
    close(served);
}

int main(void)
{
    char directory[] = "/tmp/anteroom-c-XXXXXX";
    CHECK(mkdtemp(directory) != NULL && setrlimit(RLIMIT_NOFILE, &(struct rlimit){FILES, FILES}) == 0);
    snprintf(path, sizeof(path), "%s/handoff.sock", directory);
#define TEST(test) run_one(test, #test)
    TEST(test_hello);
    TEST(test_options);
    TEST(test_an_address_as_the_sidecar_writes_it);
    TEST(test_facts_of_a_lease);
    TEST(test_put_and_the_next_lease_without_a_descriptor);
    TEST(test_without_cache);
    TEST(test_a_full_cache_drops_the_oldest);
    TEST(test_finish);
    TEST(test_detach);
    TEST(test_forget);
    TEST(test_capacity);
    TEST(test_drain);
    TEST(test_nobody_there);
    TEST(test_no_permission);
    TEST(test_a_sidecar_that_ends_is_agreed_with_and_its_successor_found);
    TEST(test_after_a_lost_link_leases_can_be_served_and_not_put);
    TEST(test_ends);
    TEST(test_frames_cut_and_merged);
    TEST(test_out_of_descriptors_it_lets_go_of_what_it_keeps_and_says_so_once);
    TEST(test_out_of_descriptors_with_nothing_to_let_go_of);
    TEST(test_many_threads);
    close(listener);
    unlink(path);
    rmdir(directory);
    return 0;
}
