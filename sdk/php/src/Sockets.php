<?php

declare(strict_types=1);

namespace Anteroom;

/** What ext-sockets needs help with. */
final class Sockets
{
    /**
     * Wait until one of $read or $write is ready, at most $timeout seconds (null: as long as it takes).
     *
     * Returns the ready ones of $read and $write in one list; an empty one after the time is over or a signal.
     *
     * @param list<\Socket> $read
     * @param list<\Socket> $write
     * @return list<\Socket>
     */
    public static function wait(array $read, array $write = [], ?float $timeout = null): array
    {
        $seconds = $timeout === null ? null : (int) max(0, $timeout);
        $micros = $timeout === null ? 0 : (int) (max(0, $timeout - $seconds) * 1e6);
        if (!$read && !$write) {
            usleep((int) (($timeout ?? 1) * 1e6));
            return [];
        }
        [$readable, $writable, $except] = [$read ?: null, $write ?: null, null];
        socket_clear_error();
        $ready = @socket_select($readable, $writable, $except, $seconds, $micros);
        if ($ready === false && socket_last_error() !== SOCKET_EINTR) {
            // select(2) takes no descriptor from 1024 on, and PHP has no other call: have them all tried again after a nap.
            usleep((int) (min(0.005, $timeout ?? 1) * 1e6));
            return [...$read, ...$write];
        }
        return $ready ? [...array_values($readable ?? []), ...array_values($writable ?? [])] : [];
    }

    /**
     * The same socket behind a descriptor that is closed in programs which this process starts.
     *
     * They might outlive it, and the other end would not learn that it has died. Nothing in PHP sets that flag, but it can be had on receipt.
     */
    public static function closedOnExec(\Socket $socket): \Socket
    {
        if (!socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $pair)) {
            throw new LinkLost('socketpair: ' . socket_strerror(socket_last_error()));
        }
        self::sendDescriptor($pair[0], '.', socket_export_stream($socket));
        [, $received] = self::receive($pair[1], 1);
        if (!$received) {
            throw new LinkLost('No room for one more descriptor: raise the limit of open files (ulimit -n).');
        }
        return $received[0];
    }

    /**
     * Read up to $length bytes and the descriptors that come with them: [bytes, descriptors, whether one was lost].
     *
     * The bytes are null if there are none yet, '' at the end of the stream. Throws LinkLost on an error.
     *
     * @return array{?string, list<mixed>, bool}
     */
    public static function receive(\Socket $socket, int $length): array
    {
        // The protocol allows one descriptor per message. Room for more, so that a surplus is seen and closed.
        $message = ['name' => [], 'buffer_size' => $length, 'controllen' => socket_cmsg_space(SOL_SOCKET, SCM_RIGHTS, 4)];
        socket_clear_error();
        $count = @socket_recvmsg($socket, $message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if ($count === false) {
            $errno = socket_last_error(); // not the socket's: recvmsg does not set that
            if ($errno === SOCKET_EAGAIN || $errno === SOCKET_EINTR) {
                return [null, [], false];
            }
            throw new LinkLost('The link to the sidecar broke: ' . socket_strerror($errno));
        }
        $descriptors = [];
        foreach ($message['control'] as $control) {
            if ($control['level'] === SOL_SOCKET && $control['type'] === SCM_RIGHTS) {
                array_push($descriptors, ...$control['data']);
            }
        }
        return [implode('', $message['iov']), $descriptors, (bool) ($message['flags'] & MSG_CTRUNC)];
    }

    /**
     * Send $data, of which at least one byte goes at once, and the descriptor of $stream.
     *
     * A stream and never a Socket: for a Socket, PHP 8.2 sends descriptor 0 in its place.
     *
     * @param resource $stream
     */
    public static function sendDescriptor(\Socket $socket, string $data, $stream): int
    {
        $control = [['level' => SOL_SOCKET, 'type' => SCM_RIGHTS, 'data' => [$stream]]];
        $sent = @socket_sendmsg($socket, ['iov' => [$data], 'control' => $control], MSG_NOSIGNAL);
        if ($sent === false) {
            throw new LinkLost('The link to the sidecar broke: ' . socket_strerror(socket_last_error()));
        }
        return $sent;
    }
}
