<?php

declare(strict_types=1);

namespace Anteroom;

/**
 * One message of the handoff protocol, without the descriptor that may come with it.
 *
 * $conn, $a and $b are the 64 bits of the wire as PHP's integer. $type may be a number that Type does not have.
 */
final class Frame
{
    public const VERSION = 1;
    public const MAGIC = 0x52544e41; // "ANTR"
    public const HEADER = 32;
    public const MAX_PAYLOAD = 8192;

    private const FIRST_CRITICAL = 0x80;

    public function __construct(
        public readonly int $type,
        public readonly int $flags = 0,
        public readonly int $seq = 0,
        public readonly int $conn = 0,
        public readonly int $a = 0,
        public readonly int $b = 0,
        public readonly string $payload = '',
    ) {
    }

    /** The frame's bytes. Throws \ValueError if the payload is too long. */
    public function encode(): string
    {
        $length = strlen($this->payload);
        if ($length > self::MAX_PAYLOAD) {
            throw new \ValueError("a payload of $length bytes, " . self::MAX_PAYLOAD . ' are allowed');
        }
        return pack('CCvVPPP', $this->type, $this->flags, $length, $this->seq, $this->conn, $this->a, $this->b) . $this->payload;
    }

    /**
     * The frame that begins at $start, or null if it is not all there. It ends size() bytes later.
     *
     * Throws BadFrame as soon as the header shows that the frame cannot be taken.
     */
    public static function decode(string $data, int $start = 0): ?self
    {
        if (strlen($data) < $start + self::HEADER) {
            return null;
        }
        $field = unpack('Ctype/Cflags/vlength/Vseq/Pconn/Pa/Pb', $data, $start);
        if ($field['type'] >= self::FIRST_CRITICAL) {
            throw new BadFrame(Code::BAD_FRAME, sprintf('a frame of type 0x%02x, which is unknown here and may not be ignored', $field['type']));
        }
        if ($field['length'] > self::MAX_PAYLOAD) {
            throw new BadFrame(Code::TOO_LONG, "a frame with a payload of {$field['length']} bytes, " . self::MAX_PAYLOAD . ' are allowed');
        }
        if (strlen($data) < $start + self::HEADER + $field['length']) {
            return null;
        }
        $payload = substr($data, $start + self::HEADER, $field['length']);
        return new self($field['type'], $field['flags'], $field['seq'], $field['conn'], $field['a'], $field['b'], $payload);
    }

    /** Its length on the wire, in bytes. */
    public function size(): int
    {
        return self::HEADER + strlen($this->payload);
    }

    /**
     * The members of a JSON payload.
     *
     * @return array<string, mixed>
     */
    public function members(): array
    {
        $value = json_decode($this->payload, true);
        if (!is_array($value)) {
            throw new BadFrame(Code::BAD_PAYLOAD, 'a payload that is no JSON object');
        }
        return $value;
    }
}
