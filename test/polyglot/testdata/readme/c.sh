cat >"$DIR/hello.c" <<'END'
#include <anteroom.h>
#include <string.h>
#include <sys/socket.h>

int main(void)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";
    char request[65536];
    anteroom_lease lease;
    anteroom *host = anteroom_new(NULL);
    if (host == NULL || anteroom_attach(host, 5000) < 0)
        return 1;
    while (anteroom_next(host, &lease, -1) == 1) {
        recv(lease.fd, request, sizeof(request), 0);
        send(lease.fd, answer, strlen(answer), MSG_NOSIGNAL);
        anteroom_put(host, &lease, 0, 1);
    }
    anteroom_free(host);
}
END
gcc -I "$ROOT/sdk/c" -pthread -o "$DIR/hello" "$DIR/hello.c" "$ROOT/sdk/c/anteroom.c"
exec "$DIR/hello"
