<?php

declare(strict_types=1);

namespace Anteroom;

/** Why the sidecar refuses or ends something. */
enum Code: int
{
    case BAD_FRAME = 1;
    case BAD_MAGIC = 2;
    case BAD_VERSION = 3;
    case BAD_PAYLOAD = 4;
    case HELLO_TWICE = 5;
    case HELLO_LATE = 6;
    case TOO_LONG = 7;
    case NO_DESCRIPTOR = 8;
    case STRAY_DESCRIPTOR = 9;
    case BAD_DESCRIPTOR = 10;
    case NOT_YOURS = 11;
    case AT_LIMIT = 12;
    case TOO_SLOW = 13;
    case NOT_ALLOWED = 14;
    case STOPPING = 15;
    case OUT_OF_DESCRIPTORS = 16;
    case NOT_AGREED = 17;
    case NOT_ANSWERING = 18;

    /** The name of a code, also of one that only a later version knows. */
    public static function nameOf(int $code): string
    {
        return self::tryFrom($code)?->name ?? "code $code";
    }
}
