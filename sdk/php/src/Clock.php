<?php

declare(strict_types=1);

namespace Anteroom;

/** The clock by which all waits are reckoned: the monotonic one. The wall clock may be set meanwhile. */
final class Clock
{
    /** Seconds since some moment of the past. */
    public static function now(): float
    {
        return hrtime(true) / 1e9;
    }
}
