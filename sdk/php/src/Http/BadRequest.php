<?php

declare(strict_types=1);

namespace Anteroom\Http;

/** A request that gets an answer from the server itself, of this status, after which the connection is closed. */
final class BadRequest extends \RuntimeException
{
    public function __construct(public readonly int $status, string $message)
    {
        parent::__construct($message);
    }
}
