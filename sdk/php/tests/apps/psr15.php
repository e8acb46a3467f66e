<?php

use Nyholm\Psr7\Response;
use Nyholm\Psr7\Stream;
use Psr\Http\Message\ResponseInterface;
use Psr\Http\Message\ServerRequestInterface;
use Psr\Http\Message\UploadedFileInterface;
use Psr\Http\Server\RequestHandlerInterface;

require 'Nyholm/Psr7/autoload.php';

if (!interface_exists(RequestHandlerInterface::class)) { // Debian 12 has no package of it
    eval('namespace Psr\Http\Server; interface RequestHandlerInterface {
        public function handle(\Psr\Http\Message\ServerRequestInterface $request): \Psr\Http\Message\ResponseInterface;
    }');
}

return new class () implements RequestHandlerInterface {
    public function handle(ServerRequestInterface $request): ResponseInterface
    {
        return match ($request->getUri()->getPath()) {
            '/long' => new Response(200, [], Stream::create(str_repeat('abc', 100_000))),
            '/upload' => new Response(200, [], json_encode([
                'form' => $request->getParsedBody(),
                'files' => self::describe($request->getUploadedFiles()),
            ])),
            '/sendfile' => new Response(200, ['X-Sendfile' => rawurldecode($request->getUri()->getQuery())]),
            default => new Response(201, ['X-Many' => ['one', 'two']], json_encode([
                'method' => $request->getMethod(),
                'uri' => (string) $request->getUri(),
                'query' => $request->getQueryParams(),
                'form' => $request->getParsedBody(),
                'cookies' => $request->getCookieParams(),
                'body' => (string) $request->getBody(),
            ])),
        };
    }

    private static function describe(array|UploadedFileInterface $file): array
    {
        if (is_array($file)) {
            return array_map(self::describe(...), $file);
        }
        $content = $file->getError() === UPLOAD_ERR_OK ? [(string) $file->getStream()] : [];
        return [$file->getClientFilename(), $file->getClientMediaType(), $file->getError(), ...$content];
    }
};
