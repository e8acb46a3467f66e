<?php

declare(strict_types=1);

namespace Anteroom\App;

use Anteroom\Http\Request;
use Anteroom\Http\Response;

/** What answers requests. */
interface App
{
    public function handle(Request $request): Response;
}
