<?php

declare(strict_types=1);

namespace Anteroom\App\Script;

/** Bodies of the type multipart/form-data: what PHP makes of them for $_POST and $_FILES. RFC 7578. */
final class Uploads
{
    /** @var array<string, true> the temporary files of this request */
    private static array $files = [];

    /**
     * The fields and files of a body.
     *
     * @return array{array<string, mixed>, array<string, mixed>} as for $_POST and $_FILES
     */
    public static function parse(string $boundary, string $body): array
    {
        $fields = [];
        $files = [];
        foreach (array_slice(explode("\r\n--$boundary", "\r\n$body"), 1) as $part) {
            [$head, $content] = explode("\r\n\r\n", $part, 2) + ['', null];
            if ($content === null || !preg_match('/^content-disposition:\s*form-data;(.*)$/mi', $head, $disposition)) {
                continue; // the end, or nothing that a form sends
            }
            $name = self::parameter($disposition[1], 'name');
            $file = self::parameter($disposition[1], 'filename');
            if ($name !== null && $file === null) {
                $fields[] = [$name, $content];
            } elseif ($name !== null) {
                $type = preg_match('/^content-type:\s*(.*?)\s*$/mi', $head, $found) ? $found[1] : '';
                $files[] = [$name, self::keep($file, $type, $content)];
            }
        }
        return [self::nest($fields), self::nestFiles($files)];
    }

    /** The boundary in a Content-Type, null if it is another type. */
    public static function boundary(string $type): ?string
    {
        return preg_match('~^multipart/form-data\s*;.*\bboundary=(?:"([^"]+)"|([^\s;]+))~i', $type, $part) ? ($part[2] ?? $part[1]) : null;
    }

    public static function has(string $path): bool
    {
        return isset(self::$files[$path]);
    }

    public static function move(string $from, string $to): bool
    {
        if (!self::has($from) || !rename($from, $to)) {
            return false;
        }
        chmod($to, 0666 & ~umask());
        unset(self::$files[$from]);
        return true;
    }

    /** Remove the files that the script has left. */
    public static function clean(): void
    {
        array_map('unlink', array_filter(array_keys(self::$files), 'is_file'));
    }

    private static function parameter(string $parameters, string $name): ?string
    {
        $found = preg_match('/(?:^|[;\s])' . $name . '=(?:"((?:[^"\\\\]|\\\\.)*)"|([^\s;]*))/i', $parameters, $part);
        return $found ? ($part[2] ?? strtr($part[1], ['\\"' => '"', '\\\\' => '\\'])) : null;
    }

    /** @return array<string, string|int> */
    private static function keep(string $name, string $type, string $content): array
    {
        if ($name === '') {
            return ['name' => '', 'full_path' => '', 'type' => '', 'tmp_name' => '', 'error' => UPLOAD_ERR_NO_FILE, 'size' => 0];
        }
        $path = (string) tempnam(ini_get('upload_tmp_dir') ?: sys_get_temp_dir(), 'php');
        self::$files[$path] = true;
        $error = file_put_contents($path, $content) === strlen($content) ? UPLOAD_ERR_OK : UPLOAD_ERR_CANT_WRITE;
        $base = basename(strtr($name, '\\', '/'));
        return ['name' => $base, 'full_path' => $name, 'type' => $type, 'tmp_name' => $path, 'error' => $error, 'size' => strlen($content)];
    }

    /**
     * Names such as "a[b][]" make arrays, as in a query.
     *
     * @param list<array{string, string|int}> $pairs
     * @return array<string, mixed>
     */
    private static function nest(array $pairs): array
    {
        $query = array_map(static fn (array $pair) => urlencode($pair[0]) . '=' . urlencode((string) $pair[1]), $pairs);
        parse_str(implode('&', $query), $nested);
        return $nested;
    }

    /**
     * PHP turns files in arrays inside out: $_FILES['a']['name']['b'].
     *
     * @param list<array{string, array<string, string|int>}> $files
     * @return array<string, mixed>
     */
    private static function nestFiles(array $files): array
    {
        $pairs = [];
        foreach ($files as [$name, $file]) {
            $bracket = strcspn($name, '[');
            foreach ($file as $key => $value) {
                $pairs[] = [substr($name, 0, $bracket) . "[$key]" . substr($name, $bracket), $value];
            }
        }
        $nested = self::nest($pairs);
        foreach ($nested as &$field) {
            foreach (['error', 'size'] as $key) {
                $number = [$field[$key]];
                array_walk_recursive($number, static function (string &$value): void {
                    $value = (int) $value;
                });
                $field[$key] = $number[0];
            }
        }
        return $nested;
    }
}
