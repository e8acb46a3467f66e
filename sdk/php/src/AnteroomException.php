<?php

declare(strict_types=1);

namespace Anteroom;

/** The base of what can go wrong between a host and its sidecar. */
class AnteroomException extends \RuntimeException
{
}
