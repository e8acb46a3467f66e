<?php

declare(strict_types=1);

namespace Anteroom;

/** The sidecar did not accept this host, or ended the link for something that the host did; $reason says why. */
final class Refused extends LinkLost
{
    public function __construct(public readonly int $reason, string $sentence)
    {
        parent::__construct('The sidecar says ' . Code::nameOf($reason) . ": $sentence");
    }
}
