<?php

declare(strict_types=1);

namespace Anteroom\Runner;

use Anteroom\Clock;

/** A worker as the master sees it. */
final class Child
{
    public bool $loaded = false;
    /** When it is killed if it has not left, by Clock; null while it may stay. */
    public ?float $deadline = null;
    public readonly float $began;
    private ?\Socket $control;

    public function __construct(public readonly int $pid, \Socket $control)
    {
        $this->control = $control;
        $this->began = Clock::now();
    }

    /** Look whether it has said that the app is loaded. */
    public function look(): void
    {
        if (!$this->loaded && $this->control !== null) {
            $this->loaded = @socket_recv($this->control, $data, 1, MSG_DONTWAIT) === 1;
        }
    }

    /** Have it finish and leave, within $grace seconds. */
    public function retire(float $grace): void
    {
        $this->deadline ??= Clock::now() + $grace;
        $this->letGo();
    }

    public function kill(): void
    {
        posix_kill($this->pid, SIGKILL);
    }

    /** Close this process's end of the control socket. */
    public function letGo(): void
    {
        if ($this->control !== null) {
            socket_close($this->control);
            $this->control = null;
        }
    }
}
