<?php

declare(strict_types=1);

// The app that every SDK's conformance script serves: see docs/hosts.md.

use Anteroom\Http\Request;
use Anteroom\Http\Response;
use Anteroom\Http\Stream;

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz';
const MOST = 100_000_000;

function number(Request $request, string $name): int
{
    $value = $request->parameters()[$name] ?? '';
    if (!is_string($value) || !ctype_digit($value) || (int) $value > MOST) {
        throw new OutOfRangeException("$name is a number from 0 to 100,000,000");
    }
    return (int) $value;
}

function letters(int $count): string
{
    return substr(str_repeat(ALPHABET, intdiv($count, 26) + 1), 0, $count);
}

/** @return Generator<string> */
function pieces(int $count): Generator
{
    for ($left = $count; $left > 0; $left -= 65_000) { // a multiple of 26
        yield letters(min($left, 65_000));
    }
}

function lettersFile(int $count): Response
{
    $path = tempnam(sys_get_temp_dir(), 'letters');
    file_put_contents($path, letters($count));
    try {
        return Response::file($path);
    } finally {
        unlink($path);
    }
}

function echoAll(Stream $client, string $data): void
{
    do {
        $client->write($data);
    } while (($data = $client->read()) !== '');
}

function answer(Request $request): Response
{
    switch ($request->method === 'HEAD' ? "GET $request->path" : "$request->method $request->path") {
        case 'GET /':
            return Response::text("hello from php\n");
        case 'POST /echo':
        case 'PUT /echo':
            return new Response(200, [], $request->body());
        case 'GET /bytes':
            return new Response(200, [], letters(number($request, 'n')));
        case 'GET /stream':
            return new Response(200, [], pieces(number($request, 'n')));
        case 'GET /file':
            return lettersFile(number($request, 'n'));
        case 'GET /status':
            $code = number($request, 'code');
            return new Response($code, [], in_array($code, [204, 304], true) ? '' : "$code\n");
        case 'GET /sleep':
            usleep(number($request, 'ms') * 1000);
            return new Response(200, [], "slept\n");
        case 'GET /close':
            return new Response(200, ['Connection' => 'close'], "bye\n");
        case 'GET /peer':
            return new Response(200, [], $request->peer[0] . "\n");
        case 'GET /pid':
            return new Response(200, [], getmypid() . "\n");
        case 'GET /crash':
            posix_kill(getmypid(), SIGKILL);
            // no break: it does not get here
        case 'GET /upgrade':
            if ($request->asksForUpgrade('echo')) {
                return Response::upgrade('echo', echoAll(...));
            }
            return Response::text("ask for Upgrade: echo\n", 400);
        default:
            return Response::text("not found\n", 404);
    }
}

return static function (Request $request): Response {
    try {
        $response = answer($request);
    } catch (OutOfRangeException | ValueError $why) {
        $response = Response::text($why->getMessage() . "\n", 400);
    }
    $echo = $request->header('X-Echo');
    return $echo === null ? $response : $response->with('X-Echo', $echo);
};
