<?php

declare(strict_types=1);

namespace Anteroom\Http;

use Anteroom\Clock;
use Anteroom\Sockets;

/** A client's connection: reads and writes that wait, on a socket that does not. It neither closes the socket nor shuts it down. */
final class Stream
{
    private const CHUNK = 65536;

    public function __construct(public readonly \Socket $socket, private readonly Limits $limits = new Limits())
    {
    }

    /** Some bytes, at most 64 KiB, or '' at the end. Throws BadRequest 408 if none comes in time, and ClientGone. */
    public function read(?float $timeout = null): string
    {
        $deadline = Clock::now() + ($timeout ?? $this->limits->readTimeout);
        while (true) {
            $count = @socket_recv($this->socket, $data, self::CHUNK, MSG_DONTWAIT);
            if ($count !== false) {
                return $data ?? '';
            }
            $this->expectPatience();
            if (($left = $deadline - Clock::now()) <= 0) {
                throw new BadRequest(408, 'The request did not arrive in time.');
            }
            Sockets::wait([$this->socket], [], $left);
        }
    }

    /** Send all of $data. Throws ClientGone, also if the client takes nothing for too long. */
    public function write(string $data): void
    {
        for ($sent = $this->writeNow($data); $sent < strlen($data); $sent += $count) {
            $deadline = Clock::now() + $this->limits->writeTimeout;
            while (($count = $this->writeNow($data, $sent)) === 0) {
                if (($left = $deadline - Clock::now()) <= 0) {
                    throw new ClientGone('The client takes nothing.');
                }
                Sockets::wait([], [$this->socket], $left);
            }
        }
    }

    /** Send what the kernel takes now of $data from $offset on; returns how many bytes that was. Throws ClientGone. */
    public function writeNow(string $data, int $offset = 0): int
    {
        $sent = 0;
        while ($offset + $sent < strlen($data)) {
            $piece = substr($data, $offset + $sent, 1 << 20); // a copy, so not of all the rest
            $count = @socket_send($this->socket, $piece, strlen($piece), MSG_DONTWAIT | MSG_NOSIGNAL);
            if ($count === false) {
                $this->expectPatience();
                break;
            }
            $sent += $count;
        }
        return $sent;
    }

    /** @return array{string, int} the client's address and port as the kernel knows them; '' and 0 for a Unix socket */
    public function peer(): array
    {
        return @socket_getpeername($this->socket, $address, $port) && $port !== null ? [$address, $port] : ['', 0];
    }

    /** @return array{string, int} the address and port that the client has connected to */
    public function local(): array
    {
        return @socket_getsockname($this->socket, $address, $port) && $port !== null ? [$address, $port] : ['', 0];
    }

    private function expectPatience(): void
    {
        $errno = socket_last_error($this->socket);
        if ($errno !== SOCKET_EAGAIN && $errno !== SOCKET_EINTR) {
            throw new ClientGone(socket_strerror($errno));
        }
    }
}
