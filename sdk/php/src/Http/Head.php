<?php

declare(strict_types=1);

namespace Anteroom\Http;

/** The head of an HTTP/1 request: strict parsing, and what it says about the body and the connection. RFC 9112. */
final class Head
{
    private const TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";

    /** @param array<string, list<string>> $fields the values of each field, by its name in lower case */
    private function __construct(
        public readonly string $method,
        public readonly string $target,
        public readonly string $version,
        public readonly array $fields,
    ) {
    }

    /** Read a head, without the empty line that ends it. Throws BadRequest. */
    public static function parse(string $text, int $maxFields): self
    {
        $lines = explode("\r\n", $text);
        if (preg_match('/[\r\n\0]/', implode('', $lines))) {
            throw new BadRequest(400, 'A line ends in CRLF, and contains no NUL.');
        }
        $request = '/^(' . self::TOKEN . ') ([\x21-\x7e\x80-\xff]+) HTTP\/([0-9])\.([0-9])$/D';
        if (!preg_match($request, array_shift($lines), $part)) {
            throw new BadRequest(400, 'The request line is no request line.');
        }
        if ($part[3] !== '1') {
            throw new BadRequest(505, 'Only HTTP/1 is spoken here.');
        }
        if (count($lines) > $maxFields) {
            throw new BadRequest(431, "More than $maxFields fields.");
        }
        $head = new self($part[1], $part[2], $part[4] === '0' ? '1.0' : '1.1', self::fields($lines));
        $head->check();
        return $head;
    }

    /** The values of a field, joined by commas; null if it is not there. */
    public function field(string $name): ?string
    {
        return isset($this->fields[$name]) ? implode(', ', $this->fields[$name]) : null;
    }

    /** Whether a field that is a list of tokens has this one. */
    public function has(string $name, string $token): bool
    {
        return in_array($token, array_map('trim', explode(',', strtolower($this->field($name) ?? ''))), true);
    }

    /** Whether the client would send another request on this connection. */
    public function keepAlive(): bool
    {
        return $this->version === '1.1' ? !$this->has('connection', 'close') : $this->has('connection', 'keep-alive');
    }

    public function chunked(): bool
    {
        return isset($this->fields['transfer-encoding']);
    }

    /** The body's length, 0 without one; only if it is not chunked. */
    public function length(): int
    {
        return (int) ($this->fields['content-length'][0] ?? 0);
    }

    /** Whether the client waits for 100 Continue before it sends the body. */
    public function expectsContinue(): bool
    {
        return $this->version === '1.1' && strtolower($this->field('expect') ?? '') === '100-continue';
    }

    /**
     * @param list<string> $lines
     * @return array<string, list<string>>
     */
    private static function fields(array $lines): array
    {
        $fields = [];
        foreach ($lines as $line) {
            if (!preg_match('/^(' . self::TOKEN . '):[ \t]*(.*?)[ \t]*$/Ds', $line, $part)) {
                throw new BadRequest(400, 'A field has a name, a colon and a value, on one line.');
            }
            if (preg_match('/[\x00-\x08\x0a-\x1f\x7f]/', $part[2])) {
                throw new BadRequest(400, "The value of {$part[1]} has control characters.");
            }
            $fields[strtolower($part[1])][] = $part[2];
        }
        return $fields;
    }

    private function check(): void
    {
        $hosts = count($this->fields['host'] ?? []);
        if ($hosts > 1 || ($hosts === 0 && $this->version === '1.1')) {
            throw new BadRequest(400, 'A request has one Host.');
        }
        if ($this->method === 'CONNECT') {
            throw new BadRequest(501, 'CONNECT is not served here.');
        }
        $this->checkLength();
        if (isset($this->fields['expect']) && $this->version === '1.1' && !$this->expectsContinue()) {
            throw new BadRequest(417, 'Nothing but 100-continue can be expected here.');
        }
    }

    /** Where two parsers could see the request end in different places, there is no request. */
    private function checkLength(): void
    {
        $lengths = $this->fields['content-length'] ?? [];
        if (count(array_unique($lengths)) > 1 || ($lengths && !preg_match('/^[0-9]{1,15}$/D', $lengths[0]))) {
            throw new BadRequest(400, 'The Content-Length is one plain number.');
        }
        if (!$this->chunked()) {
            return;
        }
        if ($lengths || $this->version === '1.0') {
            throw new BadRequest(400, 'Transfer-Encoding goes with neither Content-Length nor HTTP/1.0.');
        }
        if (strtolower($this->field('transfer-encoding')) !== 'chunked') {
            throw new BadRequest(501, 'The only Transfer-Encoding known here is chunked.');
        }
    }
}
