<?php

declare(strict_types=1);

// What the command line's PHP does not do for a script, under the names that scripts know. Loaded where PHP's own are disabled, see Substitutes.

use Anteroom\App\Script\Headers;
use Anteroom\App\Script\Uploads;

function header(string $header, bool $replace = true, int $response_code = 0): void
{
    Headers::add($header, $replace, $response_code);
}

function header_remove(?string $name = null): void
{
    Headers::remove($name);
}

/** @return list<string> */
function headers_list(): array
{
    return Headers::lines();
}

/** Never, for they are sent when the script has ended. */
function headers_sent(mixed &$filename = null, mixed &$line = null): bool
{
    return false;
}

function http_response_code(int $response_code = 0): int
{
    return Headers::code($response_code);
}

/** @param int|array<string, mixed> $expires_or_options */
function setcookie(
    string $name,
    string $value = '',
    int|array $expires_or_options = 0,
    string $path = '',
    string $domain = '',
    bool $secure = false,
    bool $httponly = false,
): bool {
    return Headers::cookie($name, rawurlencode($value), $expires_or_options, $path, $domain, $secure, $httponly);
}

/** @param int|array<string, mixed> $expires_or_options */
function setrawcookie(
    string $name,
    string $value = '',
    int|array $expires_or_options = 0,
    string $path = '',
    string $domain = '',
    bool $secure = false,
    bool $httponly = false,
): bool {
    return Headers::cookie($name, $value, $expires_or_options, $path, $domain, $secure, $httponly);
}

function is_uploaded_file(string $filename): bool
{
    return Uploads::has($filename);
}

function move_uploaded_file(string $from, string $to): bool
{
    return Uploads::move($from, $to);
}

/** @return array<string, string> */
function getallheaders(): array
{
    $fields = [];
    foreach ($_SERVER as $key => $value) {
        if (str_starts_with((string) $key, 'HTTP_') || in_array($key, ['CONTENT_TYPE', 'CONTENT_LENGTH'], true)) {
            $name = str_starts_with($key, 'HTTP_') ? substr($key, 5) : $key;
            $fields[ucwords(strtolower(strtr($name, '_', '-')), '-')] = $value;
        }
    }
    return $fields;
}
