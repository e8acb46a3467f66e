<?php

declare(strict_types=1);

namespace Anteroom;

/**
 * A host: a process that borrows connections from a sidecar. It attaches, and attaches again whenever the link is lost.
 *
 *     $client = new Client(new Options(pool: 'default'));
 *     foreach ($client->leases() as $lease) {
 *         serve($lease->socket);
 *         $lease->put();
 *     }
 */
final class Client
{
    public const AGENT = 'anteroom-php/1';

    private const WELCOME_TIMEOUT = 5.0; // seconds for the answer to HELLO
    private const LEAST_DROPPED = 16; // kept connections that are let go of when the process is out of descriptors: each NACK delays a request
    private const STABLE = 5.0; // seconds a link must have lasted for the next attempt to come without much delay

    private ?Link $link = null;
    /** @var array<string, mixed> the members of WELCOME, empty until it has come */
    private array $welcome = [];
    private float $openedAt = 0;
    private float $retryAt = 0;
    private Backoff $backoff;
    private string $complaint = '';
    private bool $leaving = false; // this host has said that it drains, or must with its next link
    private bool $ending = false; // the sidecar has said that it ends
    private bool $left = false;
    /** @var list<Lease> leases that nobody has taken yet */
    private array $arrived = [];
    /** @var array<int, Lease> leases that are out, by connection */
    private array $out = [];
    /** @var array<int, \Socket> idle connections whose descriptor is kept, least recently used first */
    private array $held = [];
    private bool $toldOfShortage = false;

    /** @param ?\Closure(string): void $log is told of links that are made and lost */
    public function __construct(private readonly Options $options, private readonly ?\Closure $log = null)
    {
        $this->backoff = new Backoff();
    }

    /**
     * All leases from now on, until this host has drained or was closed.
     *
     * @return \Generator<int, Lease>
     */
    public function leases(): \Generator
    {
        while (!$this->left) {
            $lease = $this->next();
            if ($lease !== null) {
                yield $lease;
            }
        }
    }

    /**
     * Wait for the next lease. Returns null if something else was first: $timeout seconds, a signal, one of $also being readable, or
     * something that is the client's own affair. left() tells whether there is any sense in calling it again. Never throws.
     */
    public function next(?float $timeout = null, \Socket ...$also): ?Lease
    {
        if (!$this->arrived && !$this->left) {
            try {
                $this->turn($timeout, $also);
            } catch (AnteroomException $why) {
                $this->lose($why);
            }
        }
        return array_shift($this->arrived);
    }

    /** Whether this host has left: it was closed, or has drained. */
    public function left(): bool
    {
        return $this->left;
    }

    /** Whether the sidecar has welcomed this host. */
    public function attached(): bool
    {
        return $this->welcome !== [];
    }

    /** Whether Lease::finish may be used. */
    public function canFinish(): bool
    {
        return $this->agreed('finish');
    }

    /** Take no new leases, finish those that are out, and leave. next() and leases() go on until that is done. Never throws. */
    public function drain(): void
    {
        $this->leaving = true;
        if ($this->link === null) {
            $this->left = true;
            return;
        }
        try {
            $this->link->send(new Frame(Type::DRAIN));
        } catch (LinkLost $why) {
            $this->lose($why);
        }
    }

    /** Hang up. Leases that are out can still be served, not put. */
    public function close(): void
    {
        $this->left = true;
        $this->hangUp();
    }

    /** For Lease: send $answer, if $link is still the present one; with $idle, keep that socket for the connection's next lease. */
    public function answer(Link $link, Frame $answer, mixed $stream, ?\Socket $idle): bool
    {
        if ($link !== $this->link) {
            return false;
        }
        unset($this->out[$answer->conn]);
        try {
            $link->send($answer, $stream);
            if ($idle !== null && $this->agreed('cache')) {
                $this->keep($answer->conn, $idle);
            }
        } catch (LinkLost $why) {
            $this->lose($why);
            return false;
        }
        $this->leaveIfDone();
        return true;
    }

    /** Whether the descriptor of this idle connection is kept. */
    public function holds(int $conn): bool
    {
        return isset($this->held[$conn]);
    }

    private function agreed(string $feature): bool
    {
        return in_array($feature, $this->welcome['features'] ?? [], true);
    }

    private function keep(int $conn, \Socket $socket): void
    {
        if (count($this->held) < $this->options->cache) {
            $this->held[$conn] = $socket;
        } else {
            $this->link->send(new Frame(Type::DROPPED, conn: $conn));
        }
    }

    /** @param list<\Socket> $also */
    private function turn(?float $timeout, array $also): void
    {
        $now = Clock::now();
        if ($this->link === null) {
            if ($now < $this->retryAt) {
                Sockets::wait($also, [], min($this->retryAt - $now, $timeout ?? INF));
                return;
            }
            $this->connect();
        }
        $patience = $this->attached() ? $timeout : min($timeout ?? INF, max(0, $this->openedAt + self::WELCOME_TIMEOUT - $now));
        $ready = Sockets::wait([$this->link->socket, ...$also], [], $patience);
        if (in_array($this->link->socket, $ready, true)) {
            $this->hear();
        } elseif (!$this->attached() && Clock::now() >= $this->openedAt + self::WELCOME_TIMEOUT) {
            throw new LinkLost("The sidecar at {$this->options->path} took our HELLO and did not answer.");
        }
    }

    private function connect(): void
    {
        $this->link = Link::open($this->options->path);
        $this->openedAt = Clock::now();
        try {
            $this->link->send($this->hello());
        } catch (LinkLost) {
            $this->hear(); // a refusal may have come before HELLO was read
        }
    }

    private function hello(): Frame
    {
        $payload = json_encode([
            'name' => $this->options->name,
            'pool' => $this->options->pool,
            'capacity' => $this->options->capacity,
            'features' => ['address', 'finish', ...($this->options->cache > 0 ? ['cache'] : [])],
            'agent' => self::AGENT,
        ], JSON_THROW_ON_ERROR);
        return new Frame(Type::HELLO, a: Frame::MAGIC | Frame::VERSION << 32, payload: $payload);
    }

    private function hear(): void
    {
        foreach ($this->link->receive() as [$frame, $descriptor]) {
            match ($frame->type) {
                Type::WELCOME => $this->onWelcome($frame),
                Type::LEASE => $this->onLease($frame, $descriptor),
                Type::FORGET => $this->onForget($frame),
                Type::DRAINING => $this->ending = true, // theirs, or the answer to ours: either way no lease comes any more
                Type::REFUSE, Type::ERROR => throw new Refused($frame->a, $frame->payload),
                default => null, // a word of a later version, which may be ignored
            };
        }
        $this->leaveIfDone();
    }

    private function onWelcome(Frame $frame): void
    {
        $this->welcome = $frame->members();
        $this->complaint = '';
        $this->say("attached to the sidecar at {$this->options->path}, pool {$this->options->pool}");
    }

    private function onLease(Frame $frame, mixed $descriptor): void
    {
        if ($descriptor === false) {
            $this->onLostDescriptor($frame);
            return;
        }
        $socket = $descriptor ?? $this->held[$frame->conn] ?? null;
        unset($this->held[$frame->conn]);
        if (!$socket instanceof \Socket) {
            $this->refuse($frame, NackReason::Unknown);
            return;
        }
        $peer = $frame->payload === '' ? null : ($frame->members()['peer'] ?? null);
        $lease = new Lease($this, $this->link, $frame, $socket, $peer);
        $this->arrived[] = $this->out[$frame->conn] = $lease;
    }

    /** The process is out of descriptors: make room, so that the lease can come again, and refuse it for now. */
    private function onLostDescriptor(Frame $frame): void
    {
        $dropped = $this->makeRoom();
        $this->refuse($frame, NackReason::NoDescriptor);
        if (!$this->toldOfShortage) {
            $this->toldOfShortage = true; // the next shortage has the same cause
            $this->say("this process has no descriptor left for a connection; $dropped idle ones that it kept were let go of."
                . ' Raise its limit of open files (ulimit -n), or keep fewer (cache)');
        }
    }

    /** Let go of a quarter of the kept connections. Returns how many. */
    private function makeRoom(): int
    {
        $connections = array_slice(array_keys($this->held), 0, max(intdiv(count($this->held), 4), self::LEAST_DROPPED));
        foreach ($connections as $conn) {
            socket_close($this->held[$conn]);
            unset($this->held[$conn]);
            $this->link->send(new Frame(Type::DROPPED, conn: $conn));
        }
        return count($connections);
    }

    private function refuse(Frame $frame, NackReason $reason): void
    {
        $this->link->send(new Frame(Type::NACK, seq: $frame->seq, conn: $frame->conn, a: $reason->value));
    }

    private function onForget(Frame $frame): void
    {
        $lease = $this->out[$frame->conn] ?? null;
        if ($lease !== null) {
            $lease->takenBack();
            $this->arrived = array_values(array_filter($this->arrived, static fn (Lease $other) => $other !== $lease));
        }
        unset($this->out[$frame->conn], $this->held[$frame->conn]); // which closes the descriptor, and shuts nothing down
    }

    private function leaveIfDone(): void
    {
        if ($this->ending && !$this->out) {
            $this->lose(new LinkLost('The sidecar is ending.'));
        }
    }

    private function lose(AnteroomException $why): void
    {
        $lived = $this->link !== null && $this->attached() && Clock::now() - $this->openedAt >= self::STABLE;
        $this->hangUp();
        if ($this->leaving) {
            $this->left = true;
            return;
        }
        if ($lived) {
            $this->backoff->reset();
        }
        $this->retryAt = Clock::now() + $this->backoff->delay();
        if ($why->getMessage() !== $this->complaint) { // once for each outage, not for each attempt
            $this->complaint = $why->getMessage();
            $this->say($this->complaint);
        }
    }

    private function hangUp(): void
    {
        $this->link?->close();
        $this->link = null;
        $this->welcome = $this->arrived = $this->out = $this->held = [];
        $this->ending = false;
    }

    private function say(string $message): void
    {
        if ($this->log !== null) {
            ($this->log)($message);
        }
    }
}
