<?php

declare(strict_types=1);

namespace Anteroom\App;

use Anteroom\Http\BadRequest;
use Anteroom\Http\Request;
use Anteroom\Http\Response;
use Psr\Http\Message\ResponseInterface;
use Psr\Http\Message\ServerRequestInterface;
use Psr\Http\Message\StreamInterface;
use Psr\Http\Message\UriInterface;

/** An app that speaks PSR-7: a PSR-15 request handler, or a function from ServerRequestInterface to ResponseInterface. */
final class PsrApp implements App
{
    private const PIECE = 65536;
    private const FACTORIES = [
        \Nyholm\Psr7\Factory\Psr17Factory::class,
        \GuzzleHttp\Psr7\HttpFactory::class,
    ];

    /** @param \Closure(ServerRequestInterface): ResponseInterface $handler */
    public function __construct(private readonly \Closure $handler, private readonly object $factory)
    {
    }

    /** The PSR-17 factory of a PSR-7 library that is there. Throws \RuntimeException. */
    public static function factory(): object
    {
        foreach (self::FACTORIES as $class) {
            if (class_exists($class)) {
                return new $class();
            }
        }
        throw new \RuntimeException('A PSR-7 app needs nyholm/psr7 or guzzlehttp/psr7 2, and an autoloader that finds it.');
    }

    public function handle(Request $request): Response
    {
        $response = ($this->handler)($this->toPsr($request));
        $body = $response->getBody();
        $size = $body->getSize();
        $small = $size !== null && $size <= self::PIECE;
        return new Response($response->getStatusCode(), $response->getHeaders(), $small ? (string) $body : self::pieces($body));
    }

    /** Throws BadRequest. */
    private function toPsr(Request $request): ServerRequestInterface
    {
        $psr = $this->factory->createServerRequest($request->method, $this->uri($request), $request->serverVariables());
        $form = Multipart::of($request);
        foreach ($request->headers() as $name => $values) {
            $psr = $psr->withHeader((string) $name, $values);
        }
        if (($body = $request->bodyStream()) !== null) {
            $psr = $psr->withBody($this->factory->createStreamFromResource($body));
        }
        return $psr->withProtocolVersion($request->version)
            ->withRequestTarget($request->target)
            ->withQueryParams($request->parameters())
            ->withCookieParams(Form::cookies($request))
            ->withParsedBody($form?->fields() ?? Form::fields($request))
            ->withUploadedFiles($form?->files($this->factory) ?? []);
    }

    private function uri(Request $request): UriInterface
    {
        $host = $request->header('host') ?: 'localhost';
        try {
            return $this->factory->createUri(str_starts_with($request->target, '/') ? "http://$host$request->target" : $request->target);
        } catch (\InvalidArgumentException) {
            throw new BadRequest(400, 'The Host and the target make no URI.');
        }
    }

    /** @return \Generator<string> */
    private static function pieces(StreamInterface $body): \Generator
    {
        if ($body->isSeekable()) {
            $body->rewind();
        }
        while (!$body->eof()) {
            yield $body->read(self::PIECE);
        }
    }
}
