<?php

declare(strict_types=1);

namespace Anteroom\Http;

/** Reads the requests of one connection, one after the other. */
final class RequestReader
{
    private const SPOOL = 2 << 20; // bytes of a body that stay in memory; a longer one goes to a temporary file
    private const CHUNK_LINE = 4096;

    private string $buffer = '';

    public function __construct(private readonly Stream $stream, private readonly Limits $limits)
    {
    }

    /** Whether bytes of a further request have been read. Empty lines do not count. */
    public function hasMore(): bool
    {
        $this->buffer = ltrim($this->buffer, "\r\n");
        return $this->buffer !== '';
    }

    /**
     * What was read and belongs to no request, for a connection that is now another protocol's.
     */
    public function rest(): string
    {
        [$rest, $this->buffer] = [$this->buffer, ''];
        return $rest;
    }

    /** The next request's head, or null if the client has ended the connection before it. Throws BadRequest, ClientGone. */
    public function head(): ?Head
    {
        while (($end = strpos($this->buffer, "\r\n\r\n")) === false) {
            if (preg_match('/(?<!\r)\n/', $this->buffer)) {
                throw new BadRequest(400, 'A line ends in CRLF.'); // and the empty line may never come
            }
            if (strlen($this->buffer) > $this->limits->head) {
                throw new BadRequest(431, "The head is longer than {$this->limits->head} bytes.");
            }
            if (!$this->fill()) {
                if ($this->hasMore()) {
                    throw new ClientGone('The client hung up within a request.');
                }
                return null;
            }
            $this->hasMore(); // skip empty lines
        }
        $head = Head::parse($this->cut($end), $this->limits->fields);
        $this->cut(4);
        return $head;
    }

    /**
     * The body of the request whose head was read last, or null if it has none. Throws BadRequest, ClientGone.
     *
     * @return ?resource
     */
    public function body(Head $head)
    {
        if (!$head->chunked() && $head->length() === 0) {
            return null;
        }
        $this->checkBody($head->length());
        if ($head->expectsContinue() && $this->buffer === '') {
            $this->stream->write("HTTP/1.1 100 Continue\r\n\r\n");
        }
        $body = fopen('php://temp/maxmemory:' . self::SPOOL, 'w+');
        if ($head->chunked()) {
            $this->copyChunks($body);
        } else {
            $this->copy($body, $head->length());
        }
        rewind($body);
        return $body;
    }

    /** @param resource $body */
    private function copyChunks($body): void
    {
        for ($total = 0; ($size = $this->chunkSize()) > 0;) {
            $this->checkBody($total += $size);
            $this->copy($body, $size);
            if ($this->line() !== '') {
                throw new BadRequest(400, 'A chunk ends with CRLF.');
            }
        }
        for ($trailers = 0; $this->line() !== ''; $trailers++) {
            if ($trailers >= $this->limits->fields) {
                throw new BadRequest(431, 'Too many trailers.');
            }
        }
    }

    private function chunkSize(): int
    {
        if (!preg_match('/^([0-9A-Fa-f]{1,12})[ \t]*(;[^\x00-\x08\x0a-\x1f]*)?$/D', $this->line(), $part)) {
            throw new BadRequest(400, 'The size of a chunk is a hexadecimal number.');
        }
        return hexdec($part[1]);
    }

    private function line(): string
    {
        while (($end = strpos($this->buffer, "\r\n")) === false) {
            if (strlen($this->buffer) > self::CHUNK_LINE) {
                throw new BadRequest(400, 'A line between chunks is too long.');
            }
            $this->need();
        }
        $line = $this->cut($end);
        $this->cut(2);
        return $line;
    }

    /** @param resource $body */
    private function copy($body, int $length): void
    {
        while ($length > 0) {
            if ($this->buffer === '') {
                $this->need();
            }
            $piece = $this->cut($length);
            $length -= strlen($piece);
            if (fwrite($body, $piece) !== strlen($piece)) {
                throw new BadRequest(507, 'No room for the body.');
            }
        }
    }

    private function checkBody(int $length): void
    {
        if ($length > $this->limits->body) {
            throw new BadRequest(413, "The body is longer than {$this->limits->body} bytes.");
        }
    }

    private function need(): void
    {
        if (!$this->fill()) {
            throw new ClientGone('The client hung up within a request.');
        }
    }

    private function fill(): bool
    {
        $data = $this->stream->read();
        $this->buffer .= $data;
        return $data !== '';
    }

    /** Take up to $length bytes from the buffer. */
    private function cut(int $length): string
    {
        $piece = substr($this->buffer, 0, $length);
        $this->buffer = substr($this->buffer, $length);
        return $piece;
    }
}
