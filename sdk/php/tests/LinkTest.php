<?php

declare(strict_types=1);

use Anteroom\BadFrame;
use Anteroom\Flag;
use Anteroom\Frame;
use Anteroom\Link;
use Anteroom\LinkLost;
use Anteroom\NackReason;
use Anteroom\Sockets;
use Anteroom\Type;
use PHPUnit\Framework\TestCase;

/** Frames and descriptors over a socket pair. */
final class LinkTest extends TestCase
{
    private Link $link;
    private Socket $sidecar;

    protected function setUp(): void
    {
        socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $pair);
        [$this->sidecar, $ours] = $pair;
        $this->link = new Link($ours);
    }

    private function say(Frame ...$frames): void
    {
        $data = implode('', array_map(static fn (Frame $frame) => $frame->encode(), $frames));
        socket_write($this->sidecar, $data);
    }

    private function lease(int $conn): Frame
    {
        return new Frame(Type::LEASE, Flag::FD, 1, $conn);
    }

    /** A connection's descriptor, as a stream. */
    private function descriptor()
    {
        socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $pair);
        return socket_export_stream($pair[0]);
    }

    public function testFramesBeforeADescriptorComeWithIt(): void
    {
        $this->say(new Frame(Type::FORGET, conn: 7), new Frame(Type::FORGET, conn: 8));
        Sockets::sendDescriptor($this->sidecar, $this->lease(9)->encode(), $this->descriptor());
        $received = $this->link->receive();
        $this->assertSame([7, 8, 9], array_map(static fn ($pair) => $pair[0]->conn, $received));
        $this->assertNull($received[0][1]);
        $this->assertInstanceOf(Socket::class, $received[2][1]);
    }

    public function testAFrameInTwoHalvesMayBeMergedWithTheNextDescriptor(): void
    {
        $first = $this->lease(1)->encode();
        Sockets::sendDescriptor($this->sidecar, substr($first, 0, 10), $this->descriptor());
        $this->assertSame([], $this->link->receive());
        socket_write($this->sidecar, substr($first, 10));
        Sockets::sendDescriptor($this->sidecar, $this->lease(2)->encode(), $this->descriptor());
        $received = $this->link->receive();
        $this->assertSame([1, 2], array_map(static fn ($pair) => $pair[0]->conn, $received));
        $this->assertInstanceOf(Socket::class, $received[0][1]);
        $this->assertInstanceOf(Socket::class, $received[1][1]);
    }

    public function testReceivedDescriptorsAreClosedOnExec(): void
    {
        Sockets::sendDescriptor($this->sidecar, $this->lease(1)->encode(), $this->descriptor());
        $before = self::sockets();
        $received = $this->link->receive();
        $new = array_diff(self::sockets(), $before);
        $this->assertCount(1, $new);
        $this->assertStringNotContainsString(reset($new), (string) shell_exec('ls -l /proc/self/fd'));
        unset($received);
    }

    public function testTheLinkIsClosedOnExec(): void
    {
        $path = tempnam(sys_get_temp_dir(), 'link');
        unlink($path);
        $listener = socket_create(AF_UNIX, SOCK_STREAM, 0);
        socket_bind($listener, $path);
        socket_listen($listener);
        $before = self::sockets();
        $link = Link::open($path);
        $new = array_diff(self::sockets(), $before);
        unlink($path);
        $this->assertCount(1, $new);
        $this->assertStringNotContainsString(reset($new), (string) shell_exec('ls -l /proc/self/fd'));
        $link->close();
        $this->assertSame($before, self::sockets());
    }

    public function testPingIsAnswered(): void
    {
        $this->say(new Frame(Type::PING, a: 12345));
        $this->assertSame([], $this->link->receive());
        $pong = Frame::decode(socket_read($this->sidecar, 100));
        $this->assertSame([Type::PONG, 12345], [$pong->type, $pong->a]);
    }

    public function testALeaseWhoseDescriptorDidNotComeIsAnError(): void
    {
        $this->say($this->lease(1));
        $this->expectException(BadFrame::class);
        $this->link->receive();
    }

    public function testALeaseWhoseDescriptorWasLostComesWithoutIt(): void
    {
        Sockets::sendDescriptor($this->sidecar, $this->lease(5)->encode(), $this->descriptor());
        $full = $this->fillDescriptors();
        try {
            $received = $this->link->receive();
        } finally {
            unset($full);
            posix_setrlimit(POSIX_RLIMIT_NOFILE, $this->limit[0], $this->limit[1]);
        }
        $this->assertSame([[5, false]], array_map(static fn ($pair) => [$pair[0]->conn, $pair[1]], $received));
    }

    public function testTheEndOfTheStream(): void
    {
        socket_close($this->sidecar);
        $this->expectException(LinkLost::class);
        $this->link->receive();
    }

    public function testAClosedLinkSendsNothing(): void
    {
        $this->link->close();
        $this->link->close();
        $this->expectException(LinkLost::class);
        $this->link->send(new Frame(Type::PONG));
    }

    /** @var array{int, int} */
    private array $limit;

    /** Have no descriptor left. */
    private function fillDescriptors(): array
    {
        $limits = posix_getrlimit();
        $this->limit = [(int) $limits['soft openfiles'], (int) $limits['hard openfiles']];
        $lowest = count(scandir('/proc/self/fd')); // high enough for those that are open
        posix_setrlimit(POSIX_RLIMIT_NOFILE, $lowest + 20, $this->limit[1]);
        $files = [];
        while (($file = @fopen('/dev/null', 'r')) !== false) {
            $files[] = $file;
        }
        return $files;
    }

    /** @return list<string> the sockets that this process has open */
    private static function sockets(): array
    {
        $open = array_map(static fn ($fd) => (string) @readlink("/proc/self/fd/$fd"), scandir('/proc/self/fd'));
        return array_values(preg_grep('/^socket:/', $open));
    }
}
