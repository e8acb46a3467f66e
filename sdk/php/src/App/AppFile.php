<?php

declare(strict_types=1);

namespace Anteroom\App;

use Psr\Http\Message\ServerRequestInterface;
use Psr\Http\Server\RequestHandlerInterface;

/** A PHP file that returns an app. */
final class AppFile
{
    /** Run $path once and take what it returns. Throws \UnexpectedValueException if that is no app, and whatever the file throws. */
    public static function load(string $path): App
    {
        $app = require $path;
        if ($app instanceof App) {
            return $app;
        }
        if ($app instanceof RequestHandlerInterface) {
            return new PsrApp($app->handle(...), PsrApp::factory());
        }
        if (is_callable($app)) {
            $function = \Closure::fromCallable($app);
            return self::wantsPsr($function) ? new PsrApp($function, PsrApp::factory()) : new CallableApp($function);
        }
        throw new \UnexpectedValueException("$path returned " . get_debug_type($app)
            . '. It must return a function or a PSR-15 request handler; a script that prints its response is for php-fpm.');
    }

    private static function wantsPsr(\Closure $function): bool
    {
        $first = (new \ReflectionFunction($function))->getParameters()[0] ?? null;
        $type = $first?->getType();
        return $type instanceof \ReflectionNamedType && is_a($type->getName(), ServerRequestInterface::class, true);
    }
}
