<?php

declare(strict_types=1);

namespace Anteroom\Runner;

use Anteroom\Clock;
use Anteroom\Sockets;

/**
 * The process that keeps the workers running. It neither loads the app nor talks to the sidecar.
 *
 * Signals are blocked, and taken one by one between two looks at the workers.
 */
final class Master
{
    private const SIGNALS = [SIGTERM, SIGINT, SIGHUP, SIGCHLD];
    private const STABLE = 5.0; // seconds a worker must have lived for the next to be started without much delay
    private const LOOK = 20_000_000; // nanoseconds between two looks while something is due

    /** @var list<Slot> */
    private array $slots = [];
    /** @var array<int, Child> those that have been told to leave, by process id */
    private array $retired = [];
    /** @var list<Slot> those whose workers are still to be replaced, after SIGHUP */
    private array $rolling = [];
    private bool $stopping = false;

    /** @param \Closure(string): void $log */
    public function __construct(private readonly Settings $settings, private readonly \Closure $log)
    {
        for ($number = 1; $number <= $settings->workers; $number++) {
            $this->slots[] = new Slot($number);
        }
    }

    /**
     * Keep the workers running until told to stop; returns the exit status. In a worker it returns when that has left.
     */
    public function run(): int
    {
        pcntl_sigprocmask(SIG_BLOCK, self::SIGNALS);
        while (true) {
            foreach ($this->slots as $slot) {
                if ($this->isDue($slot) && ($status = $this->start($slot)) !== null) {
                    return $status;
                }
            }
            $this->roll();
            $signal = pcntl_sigtimedwait(self::SIGNALS, $info, $this->isBusy() ? 0 : 1, $this->isBusy() ? self::LOOK : 0);
            if ($signal === SIGTERM || $signal === SIGINT) {
                $this->stop();
            } elseif ($signal === SIGHUP && !$this->stopping) {
                ($this->log)('replacing the workers');
                $this->rolling = $this->slots;
            }
            $this->reap();
            $this->killOverdue();
            if ($this->stopping && !$this->retired) {
                return 0;
            }
        }
    }

    private function isDue(Slot $slot): bool
    {
        $next = $this->rolling[0] ?? null;
        $absent = $slot->child === null && Clock::now() >= $slot->startAt;
        return !$this->stopping && $slot->successor === null && ($absent || $slot === $next);
    }

    /** Start a worker. Returns null in the master, and in the worker its exit status once it has left. */
    private function start(Slot $slot): ?int
    {
        if (!socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $pair) || ($pid = pcntl_fork()) === -1) {
            ($this->log)('cannot start a worker: ' . socket_strerror(socket_last_error() ?: pcntl_get_last_error()));
            $slot->startAt = Clock::now() + $slot->backoff->delay();
            return null;
        }
        if ($pid === 0) {
            socket_close($pair[0]);
            return $this->beWorker($slot, Sockets::closedOnExec($pair[1]));
        }
        $child = new Child($pid, $pair[0]);
        if ($slot->child === null) {
            $slot->child = $child;
        } else {
            $slot->successor = $child;
        }
        return null;
    }

    private function beWorker(Slot $slot, \Socket $control): int
    {
        foreach ($this->children() as $other) {
            $other->letGo();
        }
        pcntl_sigprocmask(SIG_UNBLOCK, self::SIGNALS);
        (new Worker($this->settings, $slot->number, $control, $this->log))->run();
        return 0;
    }

    /** One step of a rolling restart: a worker leaves when its successor has loaded the app. */
    private function roll(): void
    {
        foreach ($this->children() as $child) {
            $child->look();
        }
        $slot = $this->rolling[0] ?? null;
        if ($slot === null) {
            return;
        }
        $new = $slot->successor ?? $slot->child;
        if ($slot->successor?->loaded) {
            $this->retire($slot->child);
            [$slot->child, $slot->successor] = [$slot->successor, null];
        }
        if ($slot->successor === null && $new?->loaded) {
            array_shift($this->rolling);
        }
    }

    private function stop(): void
    {
        if ($this->stopping) {
            array_walk($this->retired, static fn (Child $child) => $child->kill());
        }
        $this->stopping = true;
        $this->rolling = [];
        foreach ($this->slots as $slot) {
            $this->retire($slot->child);
            $this->retire($slot->successor);
            $slot->child = $slot->successor = null;
        }
    }

    private function retire(?Child $child): void
    {
        if ($child !== null) {
            $child->retire($this->settings->grace);
            $this->retired[$child->pid] = $child;
        }
    }

    private function reap(): void
    {
        while (($pid = pcntl_waitpid(-1, $status, WNOHANG)) > 0) {
            unset($this->retired[$pid]);
            foreach ($this->slots as $slot) {
                if ($slot->successor?->pid === $pid) {
                    $this->loseSuccessor($slot);
                } elseif ($slot->child?->pid === $pid) {
                    $this->loseWorker($slot, $status);
                }
            }
        }
    }

    private function loseWorker(Slot $slot, int $status): void
    {
        $left = pcntl_wifexited($status) && pcntl_wexitstatus($status) === 0;
        if ($left || Clock::now() - $slot->child->began >= self::STABLE) {
            $slot->backoff->reset();
        }
        if (!$left) {
            ($this->log)("worker $slot->number ended: " . self::reason($status));
        }
        $slot->child->letGo();
        [$slot->child, $slot->successor] = [$slot->successor, null];
        $slot->startAt = Clock::now() + ($left ? 0 : $slot->backoff->delay());
    }

    private function loseSuccessor(Slot $slot): void
    {
        ($this->log)('the new worker ended; the old ones stay');
        $slot->successor->letGo();
        $slot->successor = null;
        $this->rolling = [];
    }

    private function killOverdue(): void
    {
        foreach ($this->retired as $child) {
            if (Clock::now() >= $child->deadline) {
                ($this->log)("worker $child->pid did not finish in {$this->settings->grace} s and is killed");
                $child->kill();
            }
        }
    }

    /** Whether something is due that no signal announces. */
    private function isBusy(): bool
    {
        $absent = array_filter($this->slots, static fn (Slot $slot) => $slot->child === null);
        return !$this->stopping && ($absent || $this->rolling);
    }

    /** @return list<Child> */
    private function children(): array
    {
        $children = array_values($this->retired);
        foreach ($this->slots as $slot) {
            array_push($children, ...array_filter([$slot->child, $slot->successor]));
        }
        return $children;
    }

    private static function reason(int $status): string
    {
        return pcntl_wifsignaled($status) ? 'signal ' . pcntl_wtermsig($status) : 'exit status ' . pcntl_wexitstatus($status);
    }
}
