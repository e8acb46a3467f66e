<?php

use Anteroom\Http\Request;
use Anteroom\Http\Response;

return static fn (Request $request) => match ($request->path) {
    '/throw' => throw new DomainException('as it was told'),
    '/wrong' => 'a string',
    '/missing' => new Response(200, ['X-Sendfile' => '/does/not/exist']),
    '/midway' => new Response(200, [], (static function () {
        yield 'first';
        throw new DomainException('in the middle');
    })()),
    default => new Response(200, [], 'abc'),
};
