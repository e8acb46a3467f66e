<?php

declare(strict_types=1);

namespace Anteroom;

/** Bytes that are no frame. Where the next frame begins is unknown, so this is final for a link. */
final class BadFrame extends LinkLost
{
    public function __construct(public readonly Code $reason, string $message)
    {
        parent::__construct($message);
    }
}
