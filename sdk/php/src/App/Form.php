<?php

declare(strict_types=1);

namespace Anteroom\App;

use Anteroom\Http\Request;

/** What PHP makes of a request before a script sees it. */
final class Form
{
    /** @return array<string, mixed> the fields of an urlencoded body; multipart bodies are left alone */
    public static function fields(Request $request): array
    {
        $type = strtolower(trim(explode(';', $request->header('content-type') ?? '')[0]));
        if ($request->method !== 'POST' || $type !== 'application/x-www-form-urlencoded') {
            return [];
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
