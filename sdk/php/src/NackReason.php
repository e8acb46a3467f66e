<?php

declare(strict_types=1);

namespace Anteroom;

/** Why a host cannot take a lease. */
enum NackReason: int
{
    case NoDescriptor = 1;
    case Unknown = 2;
    case Overload = 3;
}
