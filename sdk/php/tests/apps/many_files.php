<?php

use Anteroom\Http\Request;
use Anteroom\Http\Response;

$files = [];
while (count($files) < 1500) {
    $files[] = fopen('/dev/null', 'r');
}

return static fn (Request $request) => new Response(200, [], count($files) . ' files');
