<?php

declare(strict_types=1);

namespace Anteroom\Http;

/** A response. Field names and values are checked when it is made; Content-Length and Connection are the server's business. */
final class Response
{
    /** @var list<array{string, string}> */
    public readonly array $fields;

    /**
     * @param array<string, string|int|list<string>> $headers
     * @param string|iterable<string> $body an iterable is sent piece by piece, as it comes
     * @param ?resource $file a regular file whose content is the body
     * @param ?\Closure(Stream, string): void $afterwards what goes on with the connection after 101, in a process of its own: it gets the
     *     connection and what the client has already sent of the new protocol
     *
     * Throws \ValueError for what cannot be sent.
     */
    public function __construct(
        public readonly int $status = 200,
        array $headers = [],
        public readonly string|iterable $body = '',
        public readonly mixed $file = null,
        public readonly ?\Closure $afterwards = null,
    ) {
        if ($status < ($afterwards ? 101 : 200) || $status > 999) {
            throw new \ValueError("A response's status is 200 to 999, not $status.");
        }
        $fields = [];
        foreach ($headers as $name => $values) {
            foreach ((array) $values as $value) {
                $fields[] = self::field((string) $name, (string) $value);
            }
        }
        $this->fields = $fields;
    }

    public static function text(string $text, int $status = 200): self
    {
        return new self($status, ['Content-Type' => 'text/plain; charset=utf-8'], $text);
    }

    /** The content of a file, sent by the sidecar where that can be. Throws \RuntimeException if it cannot be read. */
    public static function file(string $path, string $type = 'application/octet-stream'): self
    {
        return new self(200, ['Content-Type' => $type], file: self::open($path));
    }

    /** The same response, with the file that the field X-Sendfile names for its body. Throws \RuntimeException if it cannot be read. */
    public function resolved(): self
    {
        $path = $this->header('X-Sendfile');
        if ($path === null) {
            return $this;
        }
        $fields = array_filter($this->fields, static fn (array $field) => strcasecmp($field[0], 'X-Sendfile') !== 0);
        return new self($this->status, self::headers($fields), file: self::open($path));
    }

    /**
     * Go on in another protocol. The connection leaves the sidecar, and $afterwards has it in a process of its own until it returns.
     *
     * @param \Closure(Stream, string): void $afterwards
     * @param array<string, string> $headers
     */
    public static function upgrade(string $protocol, \Closure $afterwards, array $headers = []): self
    {
        return new self(101, ['Connection' => 'Upgrade', 'Upgrade' => $protocol] + $headers, afterwards: $afterwards);
    }

    /** The same response with one more field. */
    public function with(string $name, string $value): self
    {
        $headers = self::headers([...$this->fields, [$name, $value]]);
        return new self($this->status, $headers, $this->body, $this->file, $this->afterwards);
    }

    /** The first value of a field; null if it is not there. */
    public function header(string $name): ?string
    {
        foreach ($this->fields as [$key, $value]) {
            if (strcasecmp($key, $name) === 0) {
                return $value;
            }
        }
        return null;
    }

    /** @return resource */
    private static function open(string $path)
    {
        $file = is_file($path) ? @fopen($path, 'r') : false;
        if ($file === false) {
            throw new \RuntimeException("Cannot read $path.");
        }
        return $file;
    }

    /**
     * @param list<array{string, string}> $fields
     * @return array<string, list<string>>
     */
    private static function headers(array $fields): array
    {
        $headers = [];
        foreach ($fields as [$name, $value]) {
            $headers[$name][] = $value;
        }
        return $headers;
    }

    /** @return array{string, string} */
    private static function field(string $name, string $value): array
    {
        if (!preg_match("/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/D", $name) || preg_match('/[\x00-\x08\x0a-\x1f\x7f]/', $value)) {
            throw new \ValueError("The field \"$name\" cannot be sent: its name must be a token, and its value have no control characters.");
        }
        return [$name, $value];
    }
}
