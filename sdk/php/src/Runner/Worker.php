<?php

declare(strict_types=1);

namespace Anteroom\Runner;

use Anteroom\App\App;
use Anteroom\App\AppFile;
use Anteroom\Client;
use Anteroom\Lease;

/** A process that serves one request at a time. It leaves when its control socket is closed, so also when the master has died. */
final class Worker
{
    private const LOOK = 5.0; // seconds; a signal that comes just before a wait is noticed after it

    private readonly Client $client;
    private bool $leaving = false;
    /** @var array<int, int> the processes of upgraded connections */
    private array $upgraded = [];

    /** @param \Closure(string): void $log */
    public function __construct(
        private readonly Settings $settings,
        int $number,
        private readonly \Socket $control,
        private readonly \Closure $log,
    ) {
        $this->client = new Client($settings->hostOptions($number), $log);
    }

    /** Serve until told to leave. Throws what the app's file throws. */
    public function run(): void
    {
        pcntl_async_signals(true);
        pcntl_signal(SIGTERM, function (): void {
            $this->leaving = true;
        });
        foreach ([SIGINT, SIGHUP] as $signal) { // a terminal sends them to the whole group; the master decides
            pcntl_signal($signal, static fn () => null);
        }
        $app = AppFile::load($this->settings->app);
        socket_write($this->control, '.'); // the app is loaded
        $this->serve($app);
    }

    private function serve(App $app): void
    {
        $served = 0;
        $draining = false;
        while (!$this->client->left()) {
            $lease = $draining ? $this->client->next(self::LOOK) : $this->client->next(self::LOOK, $this->control);
            if ($lease !== null) {
                $served += $this->exchange($app, $lease)->run();
            }
            $this->reap();
            if (!$draining && ($this->leaving || $this->masterSaysSo() || $this->isSpent($served))) {
                $draining = true;
                $this->client->drain();
            }
        }
    }

    private function masterSaysSo(): bool
    {
        return @socket_recv($this->control, $nothing, 1, MSG_DONTWAIT) === 0;
    }

    private function isSpent(int $served): bool
    {
        return $this->settings->maxRequests > 0 && $served >= $this->settings->maxRequests;
    }

    private function exchange(App $app, Lease $lease): Exchange
    {
        $forked = function (int $pid): void {
            $this->upgraded[$pid] = $pid;
        };
        return new Exchange($app, $this->client, $lease, $this->settings->limits, $this->log, $forked);
    }

    /** Wait for the processes of upgraded connections that have ended; other children are the app's own. */
    private function reap(): void
    {
        $this->upgraded = array_filter($this->upgraded, static fn (int $pid) => pcntl_waitpid($pid, $status, WNOHANG) === 0);
    }
}
