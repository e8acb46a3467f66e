<?php

declare(strict_types=1);

namespace Anteroom\App;

use Anteroom\Http\Request;
use Psr\Http\Message\UploadedFileInterface;

/** A form of the type multipart/form-data: its fields and files. RFC 7578. */
final class Multipart
{
    /** @var list<array{string, string}> name and value */
    private array $fields = [];
    /** @var list<array{string, string, ?string, string}> name, the file's name, its type and content */
    private array $files = [];

    /** The form that the request is; null if it is none of this type, or no POST. */
    public static function of(Request $request): ?self
    {
        $type = $request->header('content-type') ?? '';
        if ($request->method !== 'POST' || !preg_match('~^multipart/form-data\s*;.*\bboundary=(?:"([^"]+)"|([^\s;]+))~i', $type, $part)) {
            return null;
        }
        return new self($part[2] ?? $part[1], $request->body());
    }

    private function __construct(string $boundary, string $body)
    {
        foreach (array_slice(explode("\r\n--$boundary", "\r\n$body"), 1) as $part) {
            [$head, $content] = explode("\r\n\r\n", $part, 2) + ['', null];
            if ($content !== null && preg_match('/^content-disposition:\s*form-data;(.*)$/mi', $head, $disposition)) {
                $this->take($disposition[1], $head, $content);
            } // else it is the end, or nothing that a form sends
        }
    }

    /** @return array<string, mixed> as in $_POST: names such as "a[b][]" make arrays */
    public function fields(): array
    {
        return self::nest($this->fields);
    }

    /**
     * The files, in arrays where their names say so.
     *
     * @param object $factory PSR-17's, for streams and uploaded files
     * @return array<string, mixed>
     */
    public function files(object $factory): array
    {
        $made = array_map(static fn (array $file) => self::upload($factory, ...array_slice($file, 1)), $this->files);
        $places = array_map(static fn (array $file, int $i) => [$file[0], (string) $i], $this->files, array_keys($this->files));
        $nested = self::nest($places);
        array_walk_recursive($nested, static function (string &$place) use ($made): void {
            $place = $made[(int) $place];
        });
        return $nested;
    }

    private function take(string $disposition, string $head, string $content): void
    {
        $name = self::parameter($disposition, 'name');
        $file = self::parameter($disposition, 'filename');
        if ($name !== null && $file === null) {
            $this->fields[] = [$name, $content];
        } elseif ($name !== null) {
            $type = preg_match('/^content-type:\s*(.*?)\s*$/mi', $head, $found) ? $found[1] : null;
            $this->files[] = [$name, $file, $type, $content];
        }
    }

    /** A field for a file in which none was chosen has no name. */
    private static function upload(object $factory, string $name, ?string $type, string $content): UploadedFileInterface
    {
        $stream = fopen('php://temp', 'w+');
        fwrite($stream, $content);
        rewind($stream);
        $error = $name === '' ? UPLOAD_ERR_NO_FILE : UPLOAD_ERR_OK;
        $base = basename(strtr($name, '\\', '/'));
        return $factory->createUploadedFile($factory->createStreamFromResource($stream), strlen($content), $error, $base, $type);
    }

    private static function parameter(string $parameters, string $name): ?string
    {
        $found = preg_match('/(?:^|[;\s])' . $name . '=(?:"((?:[^"\\\\]|\\\\.)*)"|([^\s;]*))/i', $parameters, $part);
        return $found ? ($part[2] ?? strtr($part[1], ['\\"' => '"', '\\\\' => '\\'])) : null;
    }

    /**
     * @param list<array{string, string}> $pairs
     * @return array<string, mixed>
     */
    private static function nest(array $pairs): array
    {
        parse_str(implode('&', array_map(static fn (array $pair) => urlencode($pair[0]) . '=' . urlencode($pair[1]), $pairs)), $nested);
        return $nested;
    }
}
