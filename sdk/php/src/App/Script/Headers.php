<?php

declare(strict_types=1);

namespace Anteroom\App\Script;

/** The status and the fields that a script sets for its response. */
final class Headers
{
    /** @var array<string, list<string>> by name, as last written */
    private static array $fields = ['Content-Type' => ['text/html; charset=UTF-8']];
    private static ?int $status = null;

    /** As header() of PHP. */
    public static function add(string $header, bool $replace, int $status): void
    {
        if (preg_match('~^HTTP/\d(?:\.\d)? (\d{3})~', $header, $part)) {
            self::$status = (int) $part[1];
            return;
        }
        [$name, $value] = explode(':', $header, 2) + ['', ''];
        $name = self::canonical($name);
        self::$fields[$name] = [...($replace ? [] : self::$fields[$name] ?? []), trim($value)];
        if ($status > 0) {
            self::$status = $status;
        } elseif ($name === 'Location' && self::$status !== 201 && intdiv(self::status(), 100) !== 3) {
            self::$status = 302;
        }
    }

    /** As header_remove() of PHP. */
    public static function remove(?string $name): void
    {
        if ($name === null) {
            self::$fields = [];
        } else {
            unset(self::$fields[self::canonical($name)]);
        }
    }

    /** @return list<string> as headers_list() of PHP */
    public static function lines(): array
    {
        $lines = [];
        foreach (self::$fields as $name => $values) {
            foreach ($values as $value) {
                $lines[] = "$name: $value";
            }
        }
        return $lines;
    }

    /** @return array<string, list<string>> */
    public static function fields(): array
    {
        return self::$fields;
    }

    public static function status(): int
    {
        return self::$status ?? 200;
    }

    /** The script has failed: 500, unless it has said something else. */
    public static function fail(): void
    {
        self::$status ??= 500;
    }

    /** As http_response_code() of PHP: sets the status if it is not 0, and returns the one before. */
    public static function code(int $status): int
    {
        $before = self::status();
        self::$status = $status === 0 ? self::$status : $status;
        return $before;
    }

    /**
     * As setcookie() and setrawcookie() of PHP, whose options may be an array.
     *
     * @param int|array<string, mixed> $expires
     */
    public static function cookie(string $name, string $value, int|array $expires, string $path, string $domain, bool $secure, bool $httponly): bool
    {
        if ($name === '' || strpbrk($name . $path . $domain, "=,; \t\r\n\v\f") !== false || strpbrk($value, ",; \t\r\n\v\f") !== false) {
            return false;
        }
        $given = is_array($expires) ? array_change_key_case($expires) : ['expires' => $expires];
        $option = $given + ['expires' => 0, 'path' => $path, 'domain' => $domain, 'secure' => $secure, 'httponly' => $httponly, 'samesite' => ''];
        if ($value === '') { // which is to delete it
            [$value, $option['expires']] = ['deleted', 1];
        }
        $cookie = "$name=$value";
        if ($option['expires'] != 0) {
            $cookie .= '; expires=' . gmdate('D, d M Y H:i:s', (int) $option['expires']) . ' GMT; Max-Age=' . max(0, $option['expires'] - time());
        }
        foreach (['path' => 'path', 'domain' => 'domain'] as $key => $word) {
            $cookie .= $option[$key] === '' ? '' : "; $word=$option[$key]";
        }
        $cookie .= ($option['secure'] ? '; secure' : '') . ($option['httponly'] ? '; HttpOnly' : '');
        $cookie .= $option['samesite'] === '' ? '' : "; SameSite=$option[samesite]";
        self::add("Set-Cookie: $cookie", false, 0);
        return true;
    }

    private static function canonical(string $name): string
    {
        return ucwords(strtolower(trim($name)), '-');
    }
}
