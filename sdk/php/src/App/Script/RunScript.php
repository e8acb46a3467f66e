<?php

declare(strict_types=1);

namespace Anteroom\App\Script;

/** Thrown in the fork that is to run a script, and caught where the program begins. An Error, which nothing on the way takes for a failure. */
final class RunScript extends \Error
{
    public function __construct(public readonly string $script)
    {
        parent::__construct("run $script");
    }
}
