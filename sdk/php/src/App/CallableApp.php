<?php

declare(strict_types=1);

namespace Anteroom\App;

use Anteroom\Http\Request;
use Anteroom\Http\Response;

/** A function from Request to Response. */
final class CallableApp implements App
{
    /** @param \Closure(Request): Response $function */
    public function __construct(private readonly \Closure $function)
    {
    }

    public function handle(Request $request): Response
    {
        $response = ($this->function)($request);
        if (!$response instanceof Response) {
            throw new \UnexpectedValueException('The app returned ' . get_debug_type($response) . ', it must return ' . Response::class . '.');
        }
        return $response;
    }
}
