<?php

declare(strict_types=1);

use Anteroom\Options;
use Anteroom\Unreachable;
use PHPUnit\Framework\TestCase;

/** Where a host attaches, and what is said if it cannot. */
final class OptionsTest extends TestCase
{
    public function testAnAddressAsTheSidecarWritesIt(): void
    {
        $this->assertSame('/run/h.sock', (new Options('unix:///run/h.sock'))->path);
        $before = getenv('ANTEROOM_HANDOFF');
        putenv('ANTEROOM_HANDOFF=unix:///run/h.sock');
        try {
            $this->assertSame('/run/h.sock', (new Options())->path);
        } finally {
            putenv($before === false ? 'ANTEROOM_HANDOFF' : "ANTEROOM_HANDOFF=$before");
        }
        foreach (['relative.sock', 'unix://relative.sock', '/unix:///a.sock'] as $path) {
            $this->assertSame($path, (new Options($path))->path);
        }
    }

    public function testNoPermission(): void
    {
        $message = Unreachable::at('/h', SOCKET_EACCES)->getMessage();
        $this->assertMatchesRegularExpression('~socket /h\\. .*handoff-allow-uid.*handoff-allow-gid~', $message);
    }
}
