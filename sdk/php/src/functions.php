<?php

declare(strict_types=1);

namespace Anteroom;

use Anteroom\App\ScriptProcess;

// For scripts run by anteroom-php --script: "use function Anteroom\header;" at the top of a file makes its calls of header() work.

/** As header() of PHP. */
function header(string $header, bool $replace = true, int $response_code = 0): void
{
    ScriptProcess::header($header, $replace, $response_code);
}

/** As header_remove() of PHP. */
function header_remove(?string $name = null): void
{
    ScriptProcess::removeHeader($name);
}

/**
 * As headers_list() of PHP.
 *
 * @return list<string>
 */
function headers_list(): array
{
    return ScriptProcess::headers();
}

/**
 * As setcookie() of PHP, with its array of options: expires, path, domain, secure, httponly, samesite.
 *
 * @param array<string, mixed> $options
 */
function setcookie(string $name, string $value = '', array $options = []): bool
{
    $cookie = $name . '=' . rawurlencode($value);
    foreach (['expires', 'path', 'domain', 'samesite'] as $key) {
        if (!empty($options[$key])) {
            $text = $key === 'expires' ? gmdate('D, d M Y H:i:s', $options[$key]) . ' GMT' : $options[$key];
            $cookie .= '; ' . ucfirst($key) . "=$text";
        }
    }
    $cookie .= (empty($options['secure']) ? '' : '; Secure') . (empty($options['httponly']) ? '' : '; HttpOnly');
    ScriptProcess::header("Set-Cookie: $cookie", false);
    return true;
}
