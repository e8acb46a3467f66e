<?php

declare(strict_types=1);

namespace Anteroom;

/** Where a host attaches and as what. Each argument wins over its environment variable. */
final class Options
{
    public const DEFAULT_PATH = '/run/anteroom/handoff.sock';
    public const MAX_CAPACITY = 4096;

    /** The handoff socket: ANTEROOM_HANDOFF, else /run/anteroom/handoff.sock. May be given with unix:// before it. */
    public readonly string $path;
    /** The pool to serve: ANTEROOM_POOL, else "default". '': a private one, which ends with this host. */
    public readonly string $pool;
    /** What operators see, need not be unique: ANTEROOM_NAME, else "php-" and the process id. */
    public readonly string $name;

    /**
     * @param int $capacity leases at once, 1 to 4096
     * @param int $cache idle connections whose descriptor is kept, which saves a little work for their next lease. select(2) takes
     *     descriptors up to 1023, so keep it well below that
     *
     * Throws \ValueError for what the protocol does not allow.
     */
    public function __construct(
        ?string $path = null,
        ?string $pool = null,
        ?string $name = null,
        public readonly int $capacity = 1,
        public readonly int $cache = 256,
    ) {
        $address = $path ?? (getenv('ANTEROOM_HANDOFF') ?: self::DEFAULT_PATH);
        $this->path = str_starts_with($address, 'unix:///') ? substr($address, strlen('unix://')) : $address;
        $this->pool = $pool === '' ? '' : self::word('pool', $pool ?? (getenv('ANTEROOM_POOL') ?: 'default'));
        $this->name = self::word('name', $name ?? (getenv('ANTEROOM_NAME') ?: 'php-' . getmypid()));
        if ($capacity < 1 || $capacity > self::MAX_CAPACITY) {
            throw new \ValueError("The capacity is 1 to 4096, not $capacity.");
        }
        if ($cache < 0) {
            throw new \ValueError("The cache is a number of connections, not $cache.");
        }
    }

    private static function word(string $what, string $value): string
    {
        if (!preg_match('/^[A-Za-z0-9._:-]{1,64}$/D', $value)) {
            throw new \ValueError("The $what is 1 to 64 letters, digits, or . _ : -, not \"$value\".");
        }
        return $value;
    }
}
