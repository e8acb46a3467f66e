<?php

declare(strict_types=1);

namespace Anteroom\Runner;

use Anteroom\Http\Limits;
use Anteroom\Options;

/** What anteroom-php was told. */
final class Settings
{
    public const USAGE = <<<'TEXT'
        Usage: anteroom-php [options] APP.php

        Serves the app that APP.php returns: a function from Anteroom\Http\Request to Anteroom\Http\Response, or from a PSR-7 request to a
        PSR-7 response, or a PSR-15 request handler.

          --workers N          processes, each of which serves one request at a time (ANTEROOM_CAPACITY, else 4)
          --handoff PATH       the sidecar's handoff socket (ANTEROOM_HANDOFF, else /run/anteroom/handoff.sock)
          --pool NAME          the pool to serve (ANTEROOM_POOL, else default)
          --name NAME          what operators see, with the worker's number behind it (ANTEROOM_NAME, else php and the process id)
          --cache N            idle connections of which a worker keeps the descriptor (256)
          --max-requests N     replace a worker after so many requests (0: never)
          --max-body BYTES     answer longer requests with 413 (128 MiB)
          --grace SECONDS      how long a worker may take to finish when it is told to leave (30)

        SIGTERM and SIGINT finish what is being served and leave; a second one leaves at once. SIGHUP replaces the workers one by one, and keeps
        the old ones if the app does not load.

        TEXT;

    private function __construct(
        public readonly string $app,
        public readonly int $workers,
        public readonly ?string $path,
        public readonly ?string $pool,
        public readonly string $name,
        public readonly int $cache,
        public readonly int $maxRequests,
        public readonly float $grace,
        public readonly Limits $limits,
    ) {
    }

    /**
     * @param list<string> $arguments without the program's name
     *
     * Throws \ValueError, whose message says what is wrong.
     */
    public static function of(array $arguments): self
    {
        $given = [];
        while ($arguments && str_starts_with($arguments[0], '--')) {
            [$key, $value] = explode('=', substr(array_shift($arguments), 2), 2) + [1 => null];
            if (in_array($key, ['workers', 'handoff', 'pool', 'name', 'cache', 'max-requests', 'max-body', 'grace'], true)) {
                $given[$key] = $value ?? array_shift($arguments) ?? throw new \ValueError("--$key needs a value.");
            } else {
                throw new \ValueError("There is no option --$key.");
            }
        }
        $app = count($arguments) === 1 ? realpath($arguments[0]) : throw new \ValueError('Give one PHP file.');
        if ($app === false) {
            throw new \ValueError("There is no file $arguments[0].");
        }
        $settings = new self(
            $app,
            self::number('workers', $given['workers'] ?? (getenv('ANTEROOM_CAPACITY') ?: '4'), 1, Options::MAX_CAPACITY),
            $given['handoff'] ?? null,
            $given['pool'] ?? null,
            $given['name'] ?? (getenv('ANTEROOM_NAME') ?: 'php-' . getmypid()),
            self::number('cache', $given['cache'] ?? '256', 0, 900),
            self::number('max-requests', $given['max-requests'] ?? '0', 0, PHP_INT_MAX),
            self::number('grace', $given['grace'] ?? '30', 0, 86400),
            new Limits(body: self::number('max-body', $given['max-body'] ?? (string) (128 << 20), 0, 1 << 50)),
        );
        $settings->hostOptions(1);
        return $settings;
    }

    /** What worker $number attaches as. Throws \ValueError. */
    public function hostOptions(int $number): Options
    {
        $name = $this->workers === 1 ? $this->name : "$this->name-$number";
        return new Options($this->path, $this->pool, $name, cache: $this->cache);
    }

    private static function number(string $key, string $value, int $least, int $most): int
    {
        if (!ctype_digit($value) || (int) $value < $least || (int) $value > $most) {
            throw new \ValueError("--$key is a number from $least to $most, not \"$value\".");
        }
        return (int) $value;
    }
}
