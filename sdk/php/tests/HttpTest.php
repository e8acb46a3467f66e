<?php

declare(strict_types=1);

use Anteroom\Http\BadRequest;
use Anteroom\Http\ClientGone;
use Anteroom\Http\Head;
use Anteroom\Http\Limits;
use Anteroom\Http\Request;
use Anteroom\Http\RequestReader;
use Anteroom\Http\Response;
use Anteroom\Http\Stream;
use PHPUnit\Framework\TestCase;

/** Requests as clients send them. */
final class HttpTest extends TestCase
{
    private Socket $client;
    private RequestReader $reader;

    private function reader(Limits $limits = new Limits(readTimeout: 0.05)): RequestReader
    {
        socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $pair);
        [$this->client, $ours] = $pair;
        socket_set_nonblock($ours);
        return $this->reader = new RequestReader(new Stream($ours, $limits), $limits);
    }

    /** @return array{Head, string} */
    private function read(string $text, Limits $limits = new Limits(readTimeout: 0.05)): array
    {
        $reader = $this->reader($limits);
        socket_write($this->client, $text);
        $head = $reader->head();
        $body = $reader->body($head);
        return [$head, $body === null ? '' : stream_get_contents($body)];
    }

    public function testAHead(): void
    {
        [$head] = $this->read("\r\nGET /a%20b?c=d&e[]=1&e[]=2 HTTP/1.1\r\nHost: x\r\nAccept: a \r\naccept:b\r\nEmpty:\r\n\r\n");
        $request = new Request($head, null, ['192.0.2.1', 5], ['192.0.2.2', 80]);
        $this->assertSame(['GET', '/a%20b', 'c=d&e[]=1&e[]=2', '1.1'], [$request->method, $request->path, $request->query, $request->version]);
        $this->assertSame(['c' => 'd', 'e' => ['1', '2']], $request->parameters());
        $this->assertSame('a, b', $request->header('ACCEPT'));
        $this->assertSame('', $request->header('empty'));
        $this->assertNull($request->header('none'));
        $this->assertSame('192.0.2.1', $request->serverVariables()['REMOTE_ADDR']);
        $this->assertSame('a, b', $request->serverVariables()['HTTP_ACCEPT']);
    }

    /** @return list<array{string, array<string, mixed>}> */
    public static function variables(): array
    {
        return [
            ["Host: a.test:8080\r\nX_Forwarded_For: forged\r\nX-Forwarded-For: b\r\n", ['SERVER_NAME' => 'a.test', 'HTTP_X_FORWARDED_FOR' => 'b']],
            ["Host: a.test\r\nX_Forwarded_For: forged\r\nContent_Length: 5\r\n", ['SERVER_NAME' => 'a.test', 'HTTP_X_FORWARDED_FOR' => null, 'CONTENT_LENGTH' => null]],
            ["Host: [2001:db8::1]:8080\r\n", ['SERVER_NAME' => '[2001:db8::1]', 'HTTP_HOST' => '[2001:db8::1]:8080']],
            ["Host: [::1]\r\nProxy: forged\r\n", ['SERVER_NAME' => '[::1]', 'HTTP_PROXY' => null, 'SERVER_PORT' => 80, 'REQUEST_SCHEME' => 'http']],
            ["Host:\r\n", ['SERVER_NAME' => 'localhost']],
        ];
    }

    /** @dataProvider variables */
    public function testVariables(string $fields, array $wanted): void
    {
        [$head] = $this->read("GET / HTTP/1.1\r\n$fields\r\n");
        $variables = (new Request($head, null, ['192.0.2.1', 5], ['', 0]))->serverVariables();
        $found = array_combine(array_keys($wanted), array_map(static fn ($name) => $variables[$name] ?? null, array_keys($wanted)));
        $this->assertSame($wanted, $found);
    }

    public function testTheAbsoluteForm(): void
    {
        [$head] = $this->read("GET http://example.com?x HTTP/1.1\r\nHost: x\r\n\r\n");
        $request = new Request($head, null, ['', 0], ['', 0]);
        $this->assertSame(['/', 'x'], [$request->path, $request->query]);
    }

    public static function bodies(): array
    {
        $chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n";
        return [
            'none' => ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", ''],
            'a length' => ["POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 'hello'],
            'the same length twice' => ["POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 'hello'],
            'HTTP/1.0' => ["POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", 'hello'],
            'chunks' => ["{$chunked}3\r\nhel\r\n002;a=\"b\"\r\nlo\r\n0\r\n\r\n", 'hello'],
            'trailers' => ["{$chunked}5\r\nhello\r\n0\r\nX: y\r\nZ: z\r\n\r\n", 'hello'],
            'no chunks' => ["{$chunked}0\r\n\r\n", ''],
        ];
    }

    /** @dataProvider bodies */
    public function testABodyAndNothingBehindIt(string $text, string $body): void
    {
        $this->assertSame($body, $this->read("$text\r\nGET /next")[1]);
        $this->assertTrue($this->reader->hasMore());
        $this->assertSame('GET /next', $this->reader->rest());
    }

    public function testABareCrlfIsNoFurtherRequest(): void
    {
        $this->read("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na\r\n");
        $this->assertFalse($this->reader->hasMore());
    }

    public static function refused(): array
    {
        $get = "GET / HTTP/1.1\r\nHost: x\r\n";
        $post = "POST / HTTP/1.1\r\nHost: x\r\n";
        $chunked = "{$post}Transfer-Encoding: chunked\r\n\r\n";
        return [
            'no request line' => ["hello\r\n\r\n", 400],
            'two spaces' => ["GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400],
            'a space behind' => ["GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400],
            'HTTP/2' => ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505],
            'bare LF' => ["GET / HTTP/1.1\nHost: x\n\n", 400],
            'one bare LF' => ["{$get}A: b\nC: d\r\n\r\n", 400],
            'a bare CR' => ["{$get}A: b\rC: d\r\n\r\n", 400],
            'a NUL' => ["{$get}A: \0\r\n\r\n", 400],
            'no colon' => ["{$get}A\r\n\r\n", 400],
            'a space before the colon' => ["{$get}A : b\r\n\r\n", 400],
            'a folded line' => ["{$get}A: b\r\n c\r\n\r\n", 400],
            'no Host' => ["GET / HTTP/1.1\r\n\r\n", 400],
            'two Hosts' => ["{$get}Host: y\r\n\r\n", 400],
            'two lengths' => ["{$post}Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400],
            'a list of lengths' => ["{$post}Content-Length: 1, 1\r\n\r\na", 400],
            'a signed length' => ["{$post}Content-Length: +1\r\n\r\na", 400],
            'a length that is no number' => ["{$post}Content-Length: 0x1\r\n\r\na", 400],
            'length and chunks' => ["{$post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400],
            'chunks in HTTP/1.0' => ["POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400],
            'gzip' => ["{$post}Transfer-Encoding: gzip, chunked\r\n\r\n", 501],
            'CONNECT' => ["CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501],
            'another expectation' => ["{$post}Expect: rain\r\nContent-Length: 1\r\n\r\na", 417],
            'a chunk without a size' => ["{$chunked}\r\n", 400],
            'a negative chunk' => ["{$chunked}-1\r\n", 400],
            'a chunk that is longer than it says' => ["{$chunked}1\r\nab\r\n0\r\n\r\n", 400],
            'a long head' => [$get . str_repeat("A: b\r\n", 200) . "\r\n", 431],
            'a longer body than allowed' => ["{$post}Content-Length: 2000\r\n\r\n", 413],
            'longer chunks than allowed' => ["{$chunked}400\r\n" . str_repeat('x', 1024) . "\r\n", 413],
            'half a request' => ['GET / HT', 408],
        ];
    }

    /** @dataProvider refused */
    public function testWhatIsRefused(string $text, int $status): void
    {
        try {
            $this->read($text, new Limits(head: 1000, body: 1000, readTimeout: 0.05));
            $this->fail('it was accepted');
        } catch (BadRequest $why) {
            $this->assertSame($status, $why->status);
        }
    }

    public function testTooManyFields(): void
    {
        $this->expectExceptionMessage('More than 3 fields.');
        $this->read("GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n", new Limits(fields: 3));
    }

    public function testAClientThatGoes(): void
    {
        $reader = $this->reader();
        socket_shutdown($this->client, 1);
        $this->assertNull($reader->head());

        $reader = $this->reader();
        socket_write($this->client, "GET /");
        socket_shutdown($this->client, 1);
        $this->expectException(ClientGone::class);
        $reader->head();
    }

    public function testContinueIsSaidBeforeTheBodyIsRead(): void
    {
        $reader = $this->reader();
        socket_write($this->client, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
        $head = $reader->head();
        try {
            $reader->body($head);
        } catch (BadRequest $why) {
            $this->assertSame(408, $why->status);
        }
        $this->assertSame("HTTP/1.1 100 Continue\r\n\r\n", socket_read($this->client, 100));
    }

    public function testALongBodyIsRead(): void
    {
        $reader = $this->reader(new Limits());
        $pid = pcntl_fork();
        if ($pid === 0) {
            $data = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n" . str_repeat('0123456789', 500_000);
            for ($sent = 0; $sent < strlen($data); $sent += socket_write($this->client, substr($data, $sent, 65536))) {
            }
            posix_kill(getmypid(), SIGKILL);
        }
        $body = $reader->body($reader->head());
        pcntl_waitpid($pid, $status);
        $this->assertSame(md5(str_repeat('0123456789', 500_000)), md5(stream_get_contents($body)));
    }

    public static function keepAlive(): array
    {
        return [
            ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", true],
            ["GET / HTTP/1.1\r\nHost: x\r\nConnection: a, Close\r\n\r\n", false],
            ["GET / HTTP/1.0\r\n\r\n", false],
            ["GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true],
        ];
    }

    /** @dataProvider keepAlive */
    public function testWhetherTheConnectionStays(string $text, bool $stays): void
    {
        $this->assertSame($stays, $this->read($text)[0]->keepAlive());
    }

    public static function unsendable(): array
    {
        return [[200, ['A B' => 'c']], [200, ['A' => "b\r\nC: d"]], [200, ['' => 'b']], [99, []], [101, []]];
    }

    /** @dataProvider unsendable */
    public function testWhatCannotBeSentIsNoResponse(int $status, array $headers): void
    {
        $this->expectException(ValueError::class);
        new Response($status, $headers);
    }
}
