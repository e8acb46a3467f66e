<?php

declare(strict_types=1);

namespace Anteroom\Http;

/** A request, whole: its body has been read. */
final class Request
{
    public readonly string $method;
    /** As the client wrote it: path and query. */
    public readonly string $target;
    /** Still encoded. */
    public readonly string $path;
    /** Without the question mark. */
    public readonly string $query;
    /** "1.0" or "1.1" */
    public readonly string $version;

    /**
     * @param ?resource $body
     * @param array{string, int} $peer the client's address and port
     * @param array{string, int} $local the address and port that it has connected to
     */
    public function __construct(
        private readonly Head $head,
        private readonly mixed $body,
        public readonly array $peer,
        public readonly array $local,
    ) {
        $this->method = $head->method;
        $this->target = $head->target;
        $this->version = $head->version;
        $origin = preg_replace('~^https?://[^/?#]*~i', '', $head->target); // the absolute form, as to a proxy
        [$path, $this->query] = explode('?', explode('#', $origin)[0], 2) + ['', ''];
        $this->path = $path === '' ? '/' : $path;
    }

    /** The value of a field, several joined by commas; null if it is not there. */
    public function header(string $name): ?string
    {
        return $this->head->field(strtolower($name));
    }

    /** @return array<string, list<string>> the values of each field, by its name in lower case */
    public function headers(): array
    {
        return $this->head->fields;
    }

    /** @return array<string, mixed> the query's parameters, as in $_GET */
    public function parameters(): array
    {
        parse_str($this->query, $parameters);
        return $parameters;
    }

    /** The whole body. */
    public function body(): string
    {
        return $this->body === null ? '' : stream_get_contents($this->body, null, 0);
    }

    /**
     * The body as a stream at its beginning, null if there is none.
     *
     * @return ?resource
     */
    public function bodyStream()
    {
        return $this->body;
    }

    /** Whether the client asks to go on in this protocol, such as "websocket". */
    public function asksForUpgrade(string $protocol): bool
    {
        return $this->version === '1.1' && $this->head->has('connection', 'upgrade') && $this->head->has('upgrade', strtolower($protocol));
    }

    /** @return array<string, string|int|float> what a web server puts into $_SERVER */
    public function serverVariables(): array
    {
        [$name, $port] = $this->authority();
        $variables = [
            'REQUEST_METHOD' => $this->method,
            'REQUEST_URI' => $this->target,
            'QUERY_STRING' => $this->query,
            'SERVER_PROTOCOL' => "HTTP/$this->version",
            'SERVER_SOFTWARE' => 'anteroom-php',
            'SERVER_NAME' => $name,
            'SERVER_ADDR' => $this->local[0],
            'SERVER_PORT' => $this->local[1] ?: $port,
            'REMOTE_ADDR' => $this->peer[0],
            'REMOTE_PORT' => $this->peer[1],
            'REQUEST_SCHEME' => 'http',
            'REQUEST_TIME' => \time(),
            'REQUEST_TIME_FLOAT' => \microtime(true),
        ];
        foreach ($this->head->fields as $field => $values) {
            if (str_contains((string) $field, '_')) {
                continue; // it could pass for the field with a hyphen there
            }
            $key = strtoupper(strtr((string) $field, '-', '_'));
            $key = in_array($key, ['CONTENT_TYPE', 'CONTENT_LENGTH'], true) ? $key : "HTTP_$key";
            if ($key !== 'HTTP_PROXY') { // libraries take it for an environment variable
                $variables[$key] = implode(', ', $values);
            }
        }
        return $variables;
    }

    /** @return array{string, int} the name and port that the client asked for; an IPv6 address is in brackets */
    private function authority(): array
    {
        $host = $this->header('host') ?: $this->local[0];
        if (!preg_match('/^(\[.*\]|[^:]*)(?::([0-9]*))?$/D', $host, $part)) {
            return [$host, 80];
        }
        return [$part[1] !== '' ? $part[1] : 'localhost', (int) ($part[2] ?? 0) ?: 80];
    }
}
