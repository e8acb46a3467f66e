<?php

declare(strict_types=1);

namespace Anteroom;

/** Delays that double from $first to $most seconds, each shortened by up to a half, so that those who failed together do not return together. */
final class Backoff
{
    private float $next;

    public function __construct(private readonly float $first = 0.05, private readonly float $most = 2.0)
    {
        $this->next = $first;
    }

    public function delay(): float
    {
        $now = $this->next;
        $this->next = min(2 * $now, $this->most);
        return $now * (0.5 + mt_rand() / mt_getrandmax() / 2);
    }

    public function reset(): void
    {
        $this->next = $this->first;
    }
}
