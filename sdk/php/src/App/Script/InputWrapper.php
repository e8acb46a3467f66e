<?php

declare(strict_types=1);

namespace Anteroom\App\Script;

/** The php:// streams of a script: php://input is the request's body, the others are PHP's own. */
final class InputWrapper
{
    /** @var ?resource */
    public $context;
    /** @var resource */
    private $stream;

    private static string $body;

    /** From now on php://input is the file of this name. */
    public static function install(string $body): void
    {
        self::$body = $body;
        stream_wrapper_unregister('php');
        stream_wrapper_register('php', self::class);
    }

    public function stream_open(string $path, string $mode, int $options): bool
    {
        stream_wrapper_restore('php');
        try {
            $this->stream = strcasecmp($path, 'php://input') === 0 ? fopen(self::$body, 'r') : fopen($path, $mode);
            return $this->stream !== false;
        } finally {
            stream_wrapper_unregister('php');
            stream_wrapper_register('php', self::class);
        }
    }

    public function stream_read(int $count): string|false
    {
        return fread($this->stream, $count);
    }

    public function stream_write(string $data): int
    {
        $written = (int) fwrite($this->stream, $data);
        fflush($this->stream);
        return $written;
    }

    public function stream_eof(): bool
    {
        return feof($this->stream);
    }

    public function stream_tell(): int
    {
        return (int) ftell($this->stream);
    }

    public function stream_seek(int $offset, int $whence): bool
    {
        return fseek($this->stream, $offset, $whence) === 0;
    }

    /** @return array<int|string, int>|false */
    public function stream_stat(): array|false
    {
        return fstat($this->stream);
    }

    public function stream_truncate(int $size): bool
    {
        return ftruncate($this->stream, $size);
    }

    public function stream_flush(): bool
    {
        return fflush($this->stream);
    }

    public function stream_lock(int $operation): bool
    {
        return flock($this->stream, $operation);
    }

    public function stream_set_option(int $option, int $first, ?int $second): bool
    {
        return match ($option) {
            STREAM_OPTION_BLOCKING => stream_set_blocking($this->stream, (bool) $first),
            STREAM_OPTION_READ_TIMEOUT => stream_set_timeout($this->stream, $first, (int) $second),
            default => false,
        };
    }

    /** @return resource */
    public function stream_cast(int $for)
    {
        return $this->stream;
    }

    public function stream_close(): void
    {
        fclose($this->stream);
    }
}
