<?php

declare(strict_types=1);

namespace Anteroom;

/** Why a host ends a connection. */
enum CloseReason: int
{
    case Done = 0;
    case Client = 1;
    case TooSlow = 2;
    case App = 3;
    case Overload = 4;
}
