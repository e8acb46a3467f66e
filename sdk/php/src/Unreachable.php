<?php

declare(strict_types=1);

namespace Anteroom;

/** There is no way to the sidecar just now. */
final class Unreachable extends AnteroomException
{
    /** What an error of connect(2) to the handoff socket means. */
    public static function at(string $path, int $errno): self
    {
        return new self(match ($errno) {
            SOCKET_ENOENT => "There is no handoff socket at $path. Start the sidecar (anteroom serve --handoff $path), "
                . 'or name the right path in ANTEROOM_HANDOFF.',
            SOCKET_EACCES => "This process may not open the handoff socket $path. "
                . "Name its user in the sidecar's option handoff-allow-uid, or its group in handoff-allow-gid. "
                . 'If it is named there, the mode of the socket or of a folder above it is in the way.',
            SOCKET_ECONNREFUSED => "Nobody answers at the handoff socket $path. Is the sidecar running?",
            default => "Cannot connect to the handoff socket $path: " . socket_strerror($errno),
        });
    }
}
