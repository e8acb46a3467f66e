<?php

declare(strict_types=1);

namespace Anteroom;

/** One connection to the sidecar: frames and descriptors in both directions. It owns its socket. */
final class Link
{
    private const READ = 65536;

    private string $partial = '';
    /** @var list<mixed> arrived, and not yet claimed by a frame */
    private array $descriptors = [];
    private int $lost = 0;
    private bool $closed = false;

    public function __construct(public readonly \Socket $socket)
    {
        enum_exists(NackReason::class); // loaded now: it is needed when no descriptor is left to read its file with
    }

    /** Connect to the sidecar at $path. Throws Unreachable. */
    public static function open(string $path): self
    {
        $socket = socket_create(AF_UNIX, SOCK_STREAM, 0);
        if ($socket === false || !@socket_connect($socket, $path)) {
            throw Unreachable::at($path, $socket ? socket_last_error($socket) : socket_last_error());
        }
        return new self(Sockets::closedOnExec($socket));
    }

    /** Send one frame, with the descriptor of $stream if there is one. Waits for a sidecar that does not read. Throws LinkLost. */
    public function send(Frame $frame, mixed $stream = null): void
    {
        if ($this->closed) {
            throw new LinkLost('The link to the sidecar is closed.');
        }
        $data = $frame->encode();
        $sent = $stream === null ? 0 : Sockets::sendDescriptor($this->socket, $data, $stream);
        while ($sent < strlen($data)) {
            $count = @socket_send($this->socket, substr($data, $sent), strlen($data) - $sent, MSG_NOSIGNAL);
            if ($count === false && socket_last_error($this->socket) !== SOCKET_EINTR) {
                throw new LinkLost('The link to the sidecar broke: ' . socket_strerror(socket_last_error($this->socket)));
            }
            $sent += (int) $count;
        }
    }

    /**
     * Read once, without waiting: the frames that are complete, each with its descriptor.
     *
     * The descriptor is null in a frame that has none, and false where it was lost, because this process had no room for it. PING is
     * answered here and not returned. Throws LinkLost when the sidecar has hung up.
     *
     * @return list<array{Frame, mixed}>
     */
    public function receive(): array
    {
        [$data, $descriptors, $truncated] = Sockets::receive($this->socket, self::READ);
        if ($data === null) {
            return [];
        }
        if ($data === '') {
            throw new LinkLost('The sidecar hung up.');
        }
        if (count($descriptors) > 1) {
            throw new BadFrame(Code::STRAY_DESCRIPTOR, 'two descriptors in one message');
        }
        array_push($this->descriptors, ...$descriptors);
        $this->lost += $truncated && !$descriptors ? 1 : 0;
        return $this->parse($this->partial . $data);
    }

    /** Hang up. May be called more than once. */
    public function close(): void
    {
        if (!$this->closed) {
            $this->closed = true;
            socket_close($this->socket);
            $this->descriptors = [];
        }
    }

    /** @return list<array{Frame, mixed}> */
    private function parse(string $data): array
    {
        $frames = [];
        $start = 0;
        while (($frame = Frame::decode($data, $start)) !== null) {
            $start += $frame->size();
            $descriptor = $frame->flags & Flag::FD ? $this->claim($frame) : null;
            if ($frame->type === Type::PING) {
                $this->send(new Frame(Type::PONG, a: $frame->a));
            } else {
                $frames[] = [$frame, $descriptor];
            }
        }
        $this->partial = substr($data, $start);
        return $frames;
    }

    /** The descriptor that is due, or false if it was lost. */
    private function claim(Frame $frame): mixed
    {
        if ($this->descriptors) {
            return array_shift($this->descriptors);
        }
        if ($this->lost > 0) {
            $this->lost--;
            return false;
        }
        throw new BadFrame(Code::NO_DESCRIPTOR, 'a frame whose descriptor did not come');
    }
}
