<?php

declare(strict_types=1);

namespace Anteroom\Http;

use Anteroom\Lease;

/** Sends responses on one connection, and leaves the rest of long ones to the sidecar, which spares the worker slow clients. */
final class ResponseWriter
{
    private const FILE_TO_SIDECAR = 65536; // bytes from which on a file is not worth reading here
    private const MAX_SPOOL = 16 << 20; // bytes of memory that a slow client's response may take
    private const PIECE = 262144;

    public function __construct(private readonly Stream $stream, private readonly Lease $lease, private readonly bool $canFinish)
    {
    }

    /**
     * Send $response. Returns whether the sidecar sends the rest, so that the lease is answered; it may only if $last, when no further
     * request has been read. $close tells the client that the connection ends, which is the caller's to do. Throws ClientGone.
     */
    public function send(Head $head, Response $response, bool $close, bool $last): bool
    {
        $file = $response->file;
        $length = match (true) {
            $file !== null => fstat($file)['size'],
            is_string($response->body) => strlen($response->body),
            default => null,
        };
        $text = $this->head($head, $response, $length, $close);
        if ($head->method === 'HEAD' || !self::mayHaveBody($response->status)) {
            $this->stream->write($text);
            return false;
        }
        $mayFinish = $last && $this->canFinish;
        if ($file !== null) {
            return $this->sendFile($text, $file, $length, $close, $mayFinish);
        }
        if ($length !== null) {
            return $this->sendText($text . $response->body, $close, $mayFinish);
        }
        $this->sendPieces($text, $response->body, $head->version === '1.1');
        return false;
    }

    /** Whether the end of this response can be seen by the client without the connection's end. */
    public static function delimited(Head $head, Response $response): bool
    {
        $noBody = $head->method === 'HEAD' || !self::mayHaveBody($response->status);
        return $noBody || $head->version === '1.1' || is_string($response->body) || $response->file !== null;
    }

    private static function mayHaveBody(int $status): bool
    {
        return $status >= 200 && $status !== 204 && $status !== 304;
    }

    private function head(Head $head, Response $response, ?int $length, bool $close): string
    {
        $text = "HTTP/1.1 $response->status " . Status::reason($response->status) . "\r\n";
        foreach ($response->fields as [$name, $value]) {
            if (!in_array(strtolower($name), ['content-length', 'transfer-encoding'], true)
                && ($response->status === 101 || strcasecmp($name, 'connection') !== 0)) {
                $text .= "$name: $value\r\n";
            }
        }
        if ($response->header('Date') === null) {
            $text .= 'Date: ' . gmdate('D, d M Y H:i:s') . " GMT\r\n";
        }
        if (self::mayHaveBody($response->status)) {
            $text .= match (true) {
                $length !== null => "Content-Length: $length\r\n",
                $head->version === '1.1' => "Transfer-Encoding: chunked\r\n",
                default => '',
            };
        }
        if ($close) {
            $text .= "Connection: close\r\n";
        } elseif ($head->version === '1.0') {
            $text .= "Connection: keep-alive\r\n";
        }
        return "$text\r\n";
    }

    private function sendText(string $text, bool $close, bool $mayFinish): bool
    {
        $sent = $this->stream->writeNow($text);
        $left = strlen($text) - $sent;
        if ($left === 0) {
            return false;
        }
        $rest = substr($text, $sent);
        $spool = $mayFinish && $left <= self::MAX_SPOOL ? self::spool($rest) : null;
        if ($spool === null) {
            $this->stream->write($rest);
            return false;
        }
        $this->lease->finish($spool, 0, $left, $close);
        return true;
    }

    /** @param resource $file */
    private function sendFile(string $text, $file, int $length, bool $close, bool $mayFinish): bool
    {
        $this->stream->write($text);
        if ($mayFinish && $length >= self::FILE_TO_SIDECAR) {
            $this->lease->finish($file, 0, $length, $close);
            return true;
        }
        for ($left = $length; $left > 0; $left -= strlen($piece)) {
            $piece = fread($file, min($left, self::PIECE));
            if ($piece === false || $piece === '') {
                throw new \RuntimeException('The file has become shorter while it was sent.');
            }
            $this->stream->write($piece);
        }
        return false;
    }

    /** @param iterable<string> $pieces */
    private function sendPieces(string $text, iterable $pieces, bool $chunked): void
    {
        foreach ($pieces as $piece) {
            if ($piece !== '') {
                $text .= $chunked ? dechex(strlen($piece)) . "\r\n$piece\r\n" : $piece;
                $this->stream->write($text);
                $text = '';
            }
        }
        $this->stream->write($text . ($chunked ? "0\r\n\r\n" : ''));
    }

    /**
     * A file without a name that holds $data, or null if there is no room.
     *
     * @return ?resource
     */
    private static function spool(string $data)
    {
        $path = @tempnam(is_writable('/dev/shm') ? '/dev/shm' : sys_get_temp_dir(), 'anteroom');
        $file = $path === false ? false : @fopen($path, 'r+');
        if ($file === false) {
            return null;
        }
        unlink($path);
        stream_set_write_buffer($file, 0);
        return @fwrite($file, $data) === strlen($data) ? $file : null;
    }
}
