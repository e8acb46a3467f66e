<?php

declare(strict_types=1);

namespace Anteroom\Http;

/** What a client may ask of a worker. Lengths are bytes, times are seconds without progress. */
final class Limits
{
    public function __construct(
        public readonly int $head = 65536,
        public readonly int $fields = 100,
        public readonly int $body = 128 << 20,
        public readonly float $readTimeout = 10.0,
        public readonly float $writeTimeout = 30.0,
    ) {
    }
}
