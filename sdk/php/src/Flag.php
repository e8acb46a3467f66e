<?php

declare(strict_types=1);

namespace Anteroom;

/** The bits of a frame's flags. */
final class Flag
{
    public const FD = 0x01;
    public const FRESH = 0x02;
    public const LAST = 0x04;
    public const SILENT = 0x08;
    public const STICKY = 0x10;
    public const CLOSE = 0x20;
}
