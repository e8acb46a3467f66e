<?php

use Anteroom\Http\Request;
use Anteroom\Http\Response;

return static function (Request $request): Response {
    static $process;
    if ($process === null) {
        $process = proc_open(['sh', '-c', 'exit 7'], [], $pipes);
        return new Response(200, [], 'started');
    }
    return new Response(200, [], (string) proc_close($process));
};
