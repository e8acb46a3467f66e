<?php

declare(strict_types=1);

use Anteroom\Client;
use Anteroom\Http\Stream;
use Anteroom\Lease;
use Anteroom\Options;
use PHPUnit\Framework\TestCase;

/** anteroom-php with workers behind a real sidecar. */
final class SidecarTest extends TestCase
{
    private ?Rig $rig = null;

    private function start(string ...$arguments): void
    {
        $this->rig = new Rig($arguments);
    }

    private function serveConformanceApp(string ...$options): void
    {
        $this->start(...[...$options, __DIR__ . '/apps/conformance.php']);
    }

    protected function tearDown(): void
    {
        $this->rig?->end();
    }

    /**
     * 1,000 requests over 20 connections, 50 on each; $between is called with the number of each round before it.
     *
     * @return array{int, array<int, int>} how many were not answered with 200, and how often each process answered
     */
    private function thousand(callable $between): array
    {
        $browsers = array_map(fn () => $this->rig->connect(), range(1, 20));
        $lost = 0;
        $pids = [];
        for ($round = 0; $round < 50; $round++) {
            $between($round);
            array_walk($browsers, static fn ($browser) => $browser->send('GET', '/pid'));
            foreach ($browsers as $i => $browser) {
                [$status, , $body] = $browser->receive();
                if ($status === 200) {
                    $pids[(int) $body] = ($pids[(int) $body] ?? 0) + 1;
                } else {
                    $lost++;
                    $browsers[$i] = $this->rig->connect();
                }
            }
        }
        return [$lost, $pids];
    }

    /**
     * @testWith ["0"]
     *           ["1"]
     *           ["256"]
     */
    public function testNothingIsLost(string $cache): void
    {
        $this->serveConformanceApp('--cache', $cache);
        [$lost, $pids] = $this->thousand(static fn () => null);
        $this->assertSame(0, $lost);
        $this->assertSame(1000, array_sum($pids));
    }

    public function testAKilledWorkerLosesAtMostWhatItHadRead(): void
    {
        $this->serveConformanceApp();
        [$lost, $pids] = $this->thousand(function (int $round): void {
            if ($round === 10) {
                posix_kill((int) $this->rig->connect()->ask('GET', '/pid')[2], SIGKILL);
            }
        });
        $this->assertLessThanOrEqual(1, $lost); // a worker holds one request
        $this->assertSame(1000 - $lost, array_sum($pids));
        $this->rig->await(fn () => substr_count($this->rig->ask('hosts'), 'default') >= 4, 'the dead worker is replaced');
    }

    public function testARollingRestartLosesNothing(): void
    {
        $this->serveConformanceApp('--workers', '3');
        [$lost, $pids] = $this->thousand(function (int $round): void {
            if ($round === 5) {
                $this->rig->signal(SIGHUP);
            }
            usleep(10_000); // so that it falls into the run
        });
        $this->assertSame(0, $lost);
        $this->rig->await(function () use ($pids): bool {
            return !isset($pids[(int) $this->rig->connect()->ask('GET', '/pid')[2]]) || count($pids) >= 6;
        }, 'other processes answer');
    }

    public function testAnAppThatDoesNotLoadIsNotRolledOut(): void
    {
        $app = tempnam(sys_get_temp_dir(), 'app');
        file_put_contents($app, '<?php return fn ($request) => Anteroom\Http\Response::text("old");');
        $this->start('--workers', '2', $app);
        $this->assertSame('old', $this->rig->connect()->ask('GET', '/')[2]);
        file_put_contents($app, '<?php this is no PHP');
        $this->rig->signal(SIGHUP);
        $this->rig->await(fn () => str_contains($this->rig->log(), 'the old ones stay'), 'the new app is given up');
        $this->assertSame('old', $this->rig->connect()->ask('GET', '/')[2]);
        file_put_contents($app, '<?php return fn ($request) => Anteroom\Http\Response::text("new");');
        $this->rig->signal(SIGHUP);
        $this->rig->await(fn () => $this->rig->connect()->ask('GET', '/')[2] === 'new', 'the new app serves');
        unlink($app);
    }

    public function testWorkersAreReplacedAfterSoManyRequests(): void
    {
        $this->serveConformanceApp('--workers', '1', '--max-requests', '10');
        $browser = $this->rig->connect();
        $pids = [];
        for ($i = 0; $i < 25; $i++) {
            $pids[$browser->ask('GET', '/pid')[2]] = true;
        }
        $this->assertCount(3, $pids);
    }

    public function testAWorkerThatIsToldToLeaveFinishes(): void
    {
        $this->serveConformanceApp('--workers', '1');
        $browser = $this->rig->connect();
        $pid = (int) $browser->ask('GET', '/pid')[2];
        posix_kill($pid, SIGTERM);
        $this->rig->await(fn () => $browser->ask('GET', '/pid')[2] !== "$pid\n", 'another worker answers on the same connection');
        $this->assertStringNotContainsString('ended', $this->rig->log());
    }

    public function testWorkersLeaveWhenTheMasterIsKilled(): void
    {
        $this->serveConformanceApp();
        $this->rig->await(fn () => substr_count($this->rig->ask('hosts'), 'default') === 4, 'four workers');
        $this->assertSame(200, $this->rig->connect()->ask('GET', '/')[0]);
        $this->rig->signal(SIGKILL);
        $this->rig->await(fn () => !str_contains($this->rig->ask('hosts'), 'default'), 'they have left');
    }

    public function testAHostOfOnesOwn(): void
    {
        $this->rig = new Rig(null);
        $client = new Client(new Options("{$this->rig->folder}/handoff.sock", 'default', 'own'));
        $browser = $this->rig->connect();
        $connections = [];
        $serve = function (callable $answer) use ($client, $browser, &$connections): array {
            $browser->send('GET', '/');
            for ($end = microtime(true) + 10; ($lease = $client->next(1)) === null;) {
                $this->assertLessThan($end, microtime(true));
            }
            $connections[$lease->conn()] = true;
            $request = (new Stream($lease->socket))->read();
            $this->assertSame([strlen($request), strlen($request)], [$lease->headLength, $lease->requestLength]);
            $answer($lease, new Stream($lease->socket));
            return $browser->receive();
        };
        $ordinary = $serve(function (Lease $lease, Stream $stream): void {
            $this->assertTrue($lease->fresh());
            $stream->write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            $this->assertTrue($lease->put(keepAlive: 5));
            $this->assertFalse($lease->close(), 'a second answer does no harm');
        });
        $this->assertSame('ok', $ordinary[2]);
        $rest = $serve(function (Lease $lease, Stream $stream) use ($client): void {
            $this->assertFalse($lease->fresh());
            $this->assertTrue($client->canFinish());
            $file = tmpfile();
            fwrite($file, str_repeat('0123456789', 200_000));
            fflush($file);
            $stream->write("HTTP/1.1 200 OK\r\nContent-Length: 1999995\r\n\r\n");
            $this->assertTrue($lease->finish($file, 5, 1_999_995, keepAlive: 20));
        });
        $this->assertSame('56789' . str_repeat('0123456789', 199_999), $rest[2]);
        $last = $serve(function (Lease $lease, Stream $stream): void {
            $stream->write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbye");
            $this->assertTrue($lease->close());
        });
        $this->assertSame('bye', $last[2]);
        $this->assertCount(1, $connections);
        $this->assertSame(0, $browser->receive()[0], 'the connection has ended');
        $client->drain();
        $this->assertSame([], iterator_to_array($client->leases()));
        $this->assertTrue($client->left());
    }

    public function testANewSidecarIsFound(): void
    {
        $this->serveConformanceApp();
        $this->assertSame(200, $this->rig->connect()->ask('GET', '/')[0]);
        $this->rig->killSidecar();
        $this->rig->startSidecar();
        $this->assertSame(200, $this->rig->connect()->ask('GET', '/')[0]);
    }

    public function testItLeavesWhenItHasFinished(): void
    {
        $this->serveConformanceApp();
        $browser = $this->rig->connect();
        $browser->send('GET', '/sleep?ms=500');
        $this->rig->await(fn () => str_contains($this->rig->connect()->ask('GET', '/')[2], 'hello'), 'another is served');
        $this->rig->signal(SIGTERM);
        $this->assertSame([200, "slept\n"], $this->brief($browser->receive()));
        $this->assertSame(0, $this->rig->hostsEnd());
        $this->rig->startHost();
        $this->assertSame(200, $browser->ask('GET', '/')[0], 'its connection has outlived the host');
    }

    public function testASlowClientHoldsNoWorker(): void
    {
        $this->serveConformanceApp('--workers', '1');
        $slow = $this->rig->connect();
        $slow->send('GET', '/bytes?n=12000000');
        $this->assertSame(200, $this->rig->connect()->ask('GET', '/')[0]);
        $this->assertSame(12_000_000, strlen($slow->receive()[2]));
        $this->assertSame(200, $slow->ask('GET', '/')[0]);
    }

    public function testAnUpgradedConnectionHoldsNoWorker(): void
    {
        $this->serveConformanceApp('--workers', '1');
        $upgraded = $this->rig->connect();
        [$status, $head] = $upgraded->ask('GET', '/upgrade', fields: "Connection: Upgrade\r\nUpgrade: echo\r\nX-Echo: yes\r\n");
        $this->assertSame(101, $status);
        $this->assertStringContainsString("X-Echo: yes\r\n", $head);
        $this->assertSame("ping\n", $upgraded->line("ping\n"));
        $this->assertSame(200, $this->rig->connect()->ask('GET', '/')[0]);
        $this->assertSame("pong\n", $upgraded->line("pong\n"));
    }

    public function testTheAppsOwnProcessesAreLeftToIt(): void
    {
        $this->start('--workers', '1', __DIR__ . '/apps/processes.php');
        $browser = $this->rig->connect();
        $this->assertSame('started', $browser->ask('GET', '/')[2]);
        usleep(100_000); // it has ended when the next request comes
        $this->assertSame('7', $browser->ask('GET', '/')[2]);
    }

    public function testAFailureOfTheAppIsA500(): void
    {
        $this->start(__DIR__ . '/apps/failing.php');
        $browser = $this->rig->connect();
        foreach (['/throw', '/wrong', '/missing'] as $path) {
            $this->assertSame(500, $browser->ask('GET', $path)[0]);
        }
        $this->assertStringContainsString('as it was told', $this->rig->log());
        $this->assertSame([200, 'abc'], $this->brief($browser->ask('GET', '/')));
        $browser->send('GET', '/midway');
        $this->assertSame(200, $browser->receive()[0]);
        $this->assertSame(0, $browser->ask('GET', '/')[0], 'a response that breaks off ends the connection');
    }

    public function testWorksWithDescriptorsBeyondWhatSelectTakes(): void
    {
        $this->start('--workers', '1', __DIR__ . '/apps/many_files.php');
        $browser = $this->rig->connect();
        $this->assertSame('1500 files', $browser->ask('GET', '/')[2]);
        $other = $this->rig->connect();
        $this->assertSame('1500 files', $other->ask('POST', '/', str_repeat('x', 3_000_000))[2]);
        $this->assertSame('1500 files', $browser->ask('GET', '/')[2]);
    }

    public function testAPsr15Handler(): void
    {
        $this->start(__DIR__ . '/apps/psr15.php');
        $browser = $this->rig->connect();
        [$status, $head, $body] = $browser->ask('POST', '/p?q=1', 'a=1&b[]=2', "Content-Type: application/x-www-form-urlencoded\r\nCookie: k=v%20w\r\n");
        $this->assertSame(201, $status);
        $this->assertStringContainsString("X-Many: one\r\nX-Many: two\r\n", $head);
        $this->assertSame(
            ['method' => 'POST', 'uri' => 'http://test/p?q=1', 'query' => ['q' => '1'], 'form' => ['a' => '1', 'b' => ['2']], 'cookies' => ['k' => 'v w'], 'body' => 'a=1&b[]=2'],
            json_decode($body, true),
        );
        $this->assertSame(300_000, strlen($browser->ask('GET', '/long')[2]));
        $this->assertSame(file_get_contents(__FILE__), $browser->ask('GET', '/sendfile?' . rawurlencode(__FILE__))[2]);
    }

    public function testUploadsOfAPsr15Handler(): void
    {
        $this->start(__DIR__ . '/apps/psr15.php');
        $part = static fn (string $disposition, string $content) => "--bound\r\nContent-Disposition: form-data; $disposition\r\n\r\n$content\r\n";
        $body = $part('name="a"', '1') . $part('name="b[]"', "two\r\nlines")
            . $part("name=\"f\"; filename=\"dir/x \\\"y\\\".txt\"\r\nContent-Type: text/plain", "file\r\n-bound--")
            . $part('name="g[k]"; filename="z"', '') . $part('name="none"; filename=""', '') . "--bound--\r\n";
        $answer = $this->rig->connect()->ask('POST', '/upload', $body, "Content-Type: multipart/form-data; boundary=bound\r\n");
        $this->assertSame(
            ['form' => ['a' => '1', 'b' => ["two\r\nlines"]], 'files' => [
                'f' => ['x "y".txt', 'text/plain', UPLOAD_ERR_OK, "file\r\n-bound--"],
                'g' => ['k' => ['z', null, UPLOAD_ERR_OK, '']],
                'none' => ['', null, UPLOAD_ERR_NO_FILE],
            ]],
            json_decode($answer[2], true),
        );
    }

    public function testWhatIsNoUriIsTheClientsMistake(): void
    {
        $this->start(__DIR__ . '/apps/psr15.php');
        $this->assertSame(400, $this->rig->connect()->ask('GET', 'http://test:99999/')[0]);
        $this->assertStringNotContainsString('Exception', $this->rig->log());
    }

    /** Every function of PHP that tells the wall clock fails in this host. */
    public function testNothingWaitsByTheWallClock(): void
    {
        $this->rig = new Rig(['--workers', '2', '--grace', '20', __DIR__ . '/apps/conformance.php'], ['-d', 'auto_prepend_file=' . __DIR__ . '/apps/no_wall_clock.php']);
        $browser = $this->rig->connect();
        $this->assertSame(200, $browser->ask('POST', '/echo', str_repeat('x', 100_000))[0]);
        $this->rig->killSidecar();
        $this->rig->startSidecar(); // found again after a delay
        $browser = $this->rig->connect();
        posix_kill((int) $browser->ask('GET', '/pid')[2], SIGKILL); // started again after a delay
        $this->rig->await(fn () => substr_count($this->rig->ask('hosts'), 'default') === 2, 'the dead worker is replaced');
        $this->rig->signal(SIGHUP);
        $this->rig->await(fn () => str_contains($this->rig->log(), 'replacing'), 'SIGHUP');
        $browser = $this->rig->connect();
        $browser->send('GET', '/sleep?ms=300');
        $this->rig->await(fn () => !str_contains($this->rig->ask('status'), 'leased 0'), 'the request is served');
        $this->rig->signal(SIGTERM);
        $this->assertSame([200, "slept\n"], $this->brief($browser->receive()));
        $this->assertSame(0, $this->rig->hostsEnd());
        $this->assertStringNotContainsString('wall clock', $this->rig->log());
    }

    public function testOutOfDescriptorsItServesAllTheSame(): void
    {
        $this->rig = new Rig(['--workers', '1', __DIR__ . '/apps/conformance.php'], limit: 32);
        $browsers = [];
        for ($i = 0; $i < 50; $i++) {
            $browsers[$i] = $this->rig->connect();
            $this->assertSame(200, $browsers[$i]->ask('GET', '/')[0], "client $i");
        }
        foreach ($browsers as $browser) {
            $this->assertSame(200, $browser->ask('GET', '/')[0]);
        }
        $this->assertSame(1, preg_match_all('/no descriptor left for a connection; \d+ idle ones that it kept were let go of/', $this->rig->log()));
    }

    public function testScriptsAreForPhpFpm(): void
    {
        $this->rig = new Rig(null);
        $program = escapeshellarg(__DIR__ . '/../bin/anteroom-php');
        exec("$program --script " . escapeshellarg(__FILE__) . ' 2>&1', $printed, $status);
        $this->assertSame(2, $status);
        $this->assertStringContainsString('There is no option --script.', implode($printed));
    }

    private function brief(array $response): array
    {
        return [$response[0], $response[2]];
    }
}
