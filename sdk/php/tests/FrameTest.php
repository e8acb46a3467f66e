<?php

declare(strict_types=1);

use Anteroom\BadFrame;
use Anteroom\Frame;
use PHPUnit\Framework\TestCase;

/** The codec against the vectors that every implementation runs. */
final class FrameTest extends TestCase
{
    private static function load(string $name): array
    {
        $text = file_get_contents(__DIR__ . "/../../../handoff/testdata/vectors/$name");
        $vectors = json_decode($text, true, flags: JSON_THROW_ON_ERROR);
        return array_combine(array_column($vectors, 'name'), array_map(static fn ($vector) => [$vector], $vectors));
    }

    public static function frames(): array
    {
        return self::load('frames.json');
    }

    public static function bad(): array
    {
        return self::load('incomplete_and_bad.json');
    }

    /** @dataProvider frames */
    public function testEncodesAndDecodes(array $vector): void
    {
        $numbers = array_map('intval', [$vector['type'], $vector['flags'], $vector['seq'], $vector['conn'], $vector['a'], $vector['b']]);
        $frame = new Frame(...[...$numbers, $vector['payload']]);
        $data = hex2bin($vector['hex']);
        $this->assertSame($vector['hex'], bin2hex($frame->encode()));
        $this->assertEquals($frame, Frame::decode($data));
        $this->assertSame(strlen($data), $frame->size());
        // In a stream, with something before and behind.
        $this->assertEquals($frame, Frame::decode("??$data$data", 2));
    }

    /** @dataProvider frames */
    public function testWantsMoreOfEveryBeginning(array $vector): void
    {
        $data = hex2bin($vector['hex']);
        foreach ([0, 1, 31, strlen($data) - 1] as $length) {
            $this->assertNull(Frame::decode(substr($data, 0, $length)));
        }
    }

    /** @dataProvider bad */
    public function testIncompleteAndBad(array $vector): void
    {
        $data = hex2bin($vector['hex']);
        if ($vector['want'] === 'more') {
            $this->assertNull(Frame::decode($data));
            return;
        }
        try {
            Frame::decode($data);
            $this->fail('it was taken for a frame');
        } catch (BadFrame $why) {
            $this->assertSame($vector['want'], $why->reason->name);
        }
    }

    public function testDoesNotEncodeAPayloadThatIsTooLong(): void
    {
        $this->expectException(ValueError::class);
        (new Frame(1, payload: str_repeat('x', Frame::MAX_PAYLOAD + 1)))->encode();
    }
}
