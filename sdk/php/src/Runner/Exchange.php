<?php

declare(strict_types=1);

namespace Anteroom\Runner;

use Anteroom\App\App;
use Anteroom\Client;
use Anteroom\CloseReason;
use Anteroom\Http\BadRequest;
use Anteroom\Http\ClientGone;
use Anteroom\Http\Head;
use Anteroom\Http\Limits;
use Anteroom\Http\Request;
use Anteroom\Http\RequestReader;
use Anteroom\Http\Response;
use Anteroom\Http\ResponseWriter;
use Anteroom\Http\Status;
use Anteroom\Http\Stream;
use Anteroom\Lease;

/** One lease: the request that it is for, those that the client has sent right behind it, and the lease's answer. */
final class Exchange
{
    private const QUIET = 7 * 24 * 3600.0; // seconds that an upgraded connection may be silent

    private readonly Stream $stream;
    private readonly RequestReader $reader;
    private readonly ResponseWriter $writer;
    private int $requests = 0;

    /**
     * @param \Closure(string): void $log
     * @param \Closure(int): void $forked is told of a process that an upgraded connection has gone to
     */
    public function __construct(
        private readonly App $app,
        private readonly Client $client,
        private readonly Lease $lease,
        private readonly Limits $limits,
        private readonly \Closure $log,
        private readonly \Closure $forked,
    ) {
        $this->stream = new Stream($lease->socket, $limits);
        $this->reader = new RequestReader($this->stream, $limits);
        $this->writer = new ResponseWriter($this->stream, $lease, $client->canFinish());
    }

    /** Serve it and answer it. Returns how many requests there were. */
    public function run(): int
    {
        try {
            while ($this->serveOne() && $this->reader->hasMore()) {
            }
            $this->lease->put(requests: $this->requests); // nothing, if it has been answered
        } catch (BadRequest $why) {
            $this->refuse($why);
        } catch (ClientGone) {
            $this->lease->close(CloseReason::Client, $this->requests);
        } catch (\Throwable $why) { // in the middle of a response
            ($this->log)((string) $why);
            $this->lease->close(CloseReason::App, $this->requests);
        }
        return $this->requests;
    }

    /** Returns whether the connection is still ours. */
    private function serveOne(): bool
    {
        $head = $this->reader->head();
        if ($head === null) {
            $this->lease->close(CloseReason::Client, $this->requests);
            return false;
        }
        $this->requests++;
        $request = $this->request($head);
        $response = $this->ask($request);
        if ($response->afterwards !== null) {
            $this->upgrade($head, $response);
            return false;
        }
        $close = $this->mustClose($head, $response);
        if ($this->writer->send($head, $response, $close, !$this->reader->hasMore())) {
            return false;
        }
        if ($close) {
            $this->lease->close(CloseReason::Done, $this->requests);
        }
        return !$close;
    }

    private function request(Head $head): Request
    {
        $body = $this->reader->body($head);
        return new Request($head, $body, $this->peer(), $this->stream->local());
    }

    /** @return array{string, int} */
    private function peer(): array
    {
        if ($this->lease->peer === null || !preg_match('/^\[?(.*?)\]?:(\d+)$/D', $this->lease->peer, $part)) {
            return $this->stream->peer();
        }
        return [$part[1], (int) $part[2]];
    }

    private function ask(Request $request): Response
    {
        try {
            return $this->app->handle($request)->resolved();
        } catch (BadRequest $why) {
            throw $why;
        } catch (\Throwable $why) {
            ($this->log)((string) $why);
            return Response::text("The app failed.\n", 500);
        }
    }

    private function mustClose(Head $head, Response $response): bool
    {
        return !$head->keepAlive() || $this->lease->last() || !ResponseWriter::delimited($head, $response)
            || strcasecmp($response->header('Connection') ?? '', 'close') === 0;
    }

    /** The connection goes to a process of its own, and the worker on to other requests. */
    private function upgrade(Head $head, Response $response): void
    {
        $pid = pcntl_fork();
        if ($pid === -1) {
            throw new \RuntimeException('No room for one more process.');
        }
        if ($pid > 0) {
            $this->lease->detach();
            socket_close($this->lease->socket);
            ($this->forked)($pid);
            return;
        }
        $this->client->close();
        pcntl_signal(SIGTERM, SIG_DFL);
        pcntl_signal(SIGINT, SIG_DFL);
        try {
            $this->writer->send($head, $response, false, false);
            $unhurried = new Stream($this->lease->socket, new Limits(readTimeout: self::QUIET));
            ($response->afterwards)($unhurried, $this->reader->rest());
        } catch (ClientGone | BadRequest) {
        } catch (\Throwable $why) {
            ($this->log)((string) $why);
        }
        posix_kill(getmypid(), SIGKILL); // exit would run the worker's shutdown functions and destructors
    }

    private function refuse(BadRequest $why): void
    {
        $text = $why->getMessage() . "\n";
        $head = "HTTP/1.1 $why->status " . Status::reason($why->status) . "\r\n"
            . 'Content-Type: text/plain; charset=utf-8' . "\r\nContent-Length: " . strlen($text) . "\r\nConnection: close\r\n\r\n";
        try {
            $this->stream->write($head . $text);
        } catch (ClientGone) {
        }
        $this->lease->close($why->status === 408 ? CloseReason::TooSlow : CloseReason::Client, $this->requests);
    }
}
