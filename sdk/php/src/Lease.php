<?php

declare(strict_types=1);

namespace Anteroom;

/**
 * A connection with a request on it, lent to this host.
 *
 * Answer it exactly once: put, finish, close, detach or nack. They never throw, and return false if the sidecar no longer waits for an
 * answer: the lease was answered or taken back, or the link is gone. $socket is the lease's until then; only detach leaves it to the caller.
 * Its O_NONBLOCK is shared with the sidecar: never call socket_set_block on it, nor socket_shutdown, which ends it for everybody.
 */
final class Lease
{
    private const MAX_MILLISECONDS = 7 * 24 * 3600 * 1000;

    /** Bytes of the request's head, 0 if not known. */
    public readonly int $headLength;
    /** Bytes of the whole request, 0 if not all of it has arrived. */
    public readonly int $requestLength;

    private bool $over = false;

    /**
     * @param ?string $peer the client's address if it is not the socket's, as "host:port"
     */
    public function __construct(
        private readonly Client $client,
        private readonly Link $link,
        private readonly Frame $frame,
        public readonly \Socket $socket,
        public readonly ?string $peer,
    ) {
        $this->headLength = $frame->a & 0xffffffff;
        $this->requestLength = $frame->a >> 32 & 0xffffffff;
    }

    /** The connection's id, the same for all of its leases. */
    public function conn(): int
    {
        return $this->frame->conn;
    }

    /** Whether this is the connection's first request. */
    public function fresh(): bool
    {
        return (bool) ($this->frame->flags & Flag::FRESH);
    }

    /** Whether the answer must say "Connection: close": there is no room to keep one more connection. */
    public function last(): bool
    {
        return (bool) ($this->frame->flags & Flag::LAST);
    }

    /** Seconds the request waited for this host. */
    public function waited(): float
    {
        return $this->frame->b / 1e6;
    }

    /** The response is sent and nothing is left unread: the connection is idle for up to $keepAlive seconds (0: the pool's time). */
    public function put(float $keepAlive = 0, int $requests = 1): bool
    {
        return $this->answer(Type::PUT, a: self::milliseconds($keepAlive), b: $requests, keep: true);
    }

    /**
     * The rest of the response is $length bytes, at least 1, of the regular file $stream from $offset on: the sidecar sends them as the
     * client takes them, and then puts, as put() does, or with $close closes the connection. Only if Client::canFinish() says so.
     *
     * @param resource $stream
     */
    public function finish($stream, int $offset, int $length, bool $close = false, float $keepAlive = 0): bool
    {
        $flags = Flag::FD | ($close ? Flag::CLOSE : 0);
        $payload = $keepAlive > 0 ? json_encode(['keep_alive_timeout_ms' => self::milliseconds($keepAlive)], JSON_THROW_ON_ERROR) : '';
        return $this->answer(Type::FINISH, $flags, $offset, $length, keep: !$close, stream: $stream, payload: $payload);
    }

    /** End the connection. The sidecar sees to it that the client gets all that was sent. */
    public function close(CloseReason $reason = CloseReason::Done, int $requests = 1): bool
    {
        return $this->answer(Type::CLOSE, a: $reason->value, b: $requests);
    }

    /** Keep the connection for good, as for a WebSocket: the sidecar lets go of it, and $socket is the caller's. */
    public function detach(): bool
    {
        return $this->answer(Type::DETACH, leave: true);
    }

    /** Not now, or not here: the sidecar leases the connection again, to another host where there is one. */
    public function nack(NackReason $reason = NackReason::Overload): bool
    {
        return $this->answer(Type::NACK, a: $reason->value);
    }

    /** The sidecar has taken the lease back. */
    public function takenBack(): void
    {
        $this->over = true;
    }

    private function answer(
        int $type,
        int $flags = 0,
        int $a = 0,
        int $b = 0,
        bool $keep = false,
        bool $leave = false,
        mixed $stream = null,
        string $payload = '',
    ): bool {
        if ($this->over) {
            return false;
        }
        $this->over = true;
        $answer = new Frame($type, $flags, $this->frame->seq, $this->frame->conn, $a, $b, $payload);
        $waited = $this->client->answer($this->link, $answer, $stream, $keep ? $this->socket : null);
        if (!$leave && !($keep && $waited && $this->client->holds($this->frame->conn))) {
            socket_close($this->socket);
        }
        return $waited;
    }

    private static function milliseconds(float $seconds): int
    {
        return (int) min(round($seconds * 1000), self::MAX_MILLISECONDS);
    }
}
