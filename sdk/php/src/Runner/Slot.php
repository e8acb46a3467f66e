<?php

declare(strict_types=1);

namespace Anteroom\Runner;

use Anteroom\Backoff;

/** One of the workers that there should be, through all the processes that take its place. */
final class Slot
{
    public ?Child $child = null;
    /** The one that is to take its place, while its app loads. */
    public ?Child $successor = null;
    /** When to start one, if there is none. */
    public float $startAt = 0;
    public readonly Backoff $backoff;

    public function __construct(public readonly int $number)
    {
        $this->backoff = new Backoff(0.1, 5.0);
    }
}
