<?php

declare(strict_types=1);

namespace Anteroom\App;

use Anteroom\Http\Request;

/** What PHP makes of a request before an app sees it. */
final class Form
{
    /** @return ?array<string, mixed> the fields of a form, as in $_POST; null if the request is none that PHP reads: that is the app's */
    public static function fields(Request $request): ?array
    {
        $type = strtolower(trim(explode(';', $request->header('content-type') ?? '')[0]));
        if ($request->method !== 'POST' || $type !== 'application/x-www-form-urlencoded') {
            return null;
        }
        parse_str($request->body(), $fields);
        return $fields;
    }

    /** @return array<string, string> */
    public static function cookies(Request $request): array
    {
        $cookies = [];
        foreach (explode(';', strtr($request->header('cookie') ?? '', [', ' => ';'])) as $pair) {
            [$name, $value] = explode('=', trim($pair), 2) + ['', ''];
            if ($name !== '') {
                $cookies[$name] ??= urldecode($value);
            }
        }
        return $cookies;
    }
}
