<?php

declare(strict_types=1);

/** A sidecar and anteroom-php behind it, as processes, in a folder of their own. */
final class Rig
{
    public readonly string $folder;
    public readonly int $port;
    /** @var resource */
    private $sidecar;
    /** @var resource */
    private $host = null;

    /**
     * @param ?list<string> $arguments of anteroom-php; null: the sidecar alone
     * @param list<string> $options of PHP
     * @param ?int $limit how many files each process of the host may have open
     */
    public function __construct(private readonly ?array $arguments, private readonly array $options = [], private readonly ?int $limit = null)
    {
        $this->folder = sys_get_temp_dir() . '/anteroom-php-' . bin2hex(random_bytes(6));
        mkdir($this->folder, 0700);
        $probe = stream_socket_server('tcp://127.0.0.1:0');
        $this->port = (int) explode(':', stream_socket_get_name($probe, false))[1];
        fclose($probe);
        try {
            $this->startSidecar();
            if ($arguments !== null) {
                $this->startHost();
            }
        } catch (Throwable $why) {
            $this->end();
            throw $why;
        }
    }

    public function startSidecar(): void
    {
        $this->sidecar = $this->start('sidecar', [getenv('ANTEROOM_TEST_BINARY'), 'serve', '--listen', "tcp://127.0.0.1:$this->port",
            '--handoff', "$this->folder/handoff.sock", '--control', "unix://$this->folder/control.sock", '--drain-timeout', '2s']);
        $this->await(fn () => $this->ask('status') !== '', 'the sidecar answers');
    }

    public function startHost(): void
    {
        $alone = 'for fd in /proc/self/fd/*; do fd=${fd##*/}; ((fd < 3)) || exec {fd}>&-; done; ulimit -n "$0" && exec "$@"'; // without what it inherits
        $limited = $this->limit === null ? [] : ['bash', '-c', $alone, (string) $this->limit];
        $this->host = $this->start('host', [...$limited, PHP_BINARY, ...$this->options, __DIR__ . '/../bin/anteroom-php', ...$this->arguments]);
    }

    /** @param list<string> $command */
    private function start(string $name, array $command)
    {
        $log = ['file', "$this->folder/$name.log", 'a'];
        $environment = ['ANTEROOM_HANDOFF' => "$this->folder/handoff.sock", 'ANTEROOM_POOL' => 'default', 'ANTEROOM_CAPACITY' => '4'] + getenv();
        return proc_open($command, [['file', '/dev/null', 'r'], $log, $log], $pipes, null, $environment);
    }

    /** The answer to a command of anteroom for operators, '' if there is none. */
    public function ask(string $command): string
    {
        $binary = escapeshellarg(getenv('ANTEROOM_TEST_BINARY'));
        return (string) shell_exec("$binary $command --control unix://$this->folder/control.sock 2>/dev/null");
    }

    /** What anteroom-php has printed. */
    public function log(): string
    {
        return is_file("$this->folder/host.log") ? file_get_contents("$this->folder/host.log") : '';
    }

    public function signal(int $signal): void
    {
        posix_kill(proc_get_status($this->host)['pid'], $signal);
    }

    /** Wait for the host to end; returns its exit status. */
    public function hostsEnd(): int
    {
        $status = null;
        $this->await(function () use (&$status) {
            $status = proc_get_status($this->host);
            return !$status['running'];
        }, 'the host ends');
        return $status['exitcode'];
    }

    public function killSidecar(): void
    {
        posix_kill(proc_get_status($this->sidecar)['pid'], SIGKILL);
        $this->await(fn () => !proc_get_status($this->sidecar)['running'], 'the sidecar dies');
    }

    public function await(callable $condition, string $what): void
    {
        for ($end = microtime(true) + 15; !$condition(); usleep(10_000)) {
            if (microtime(true) > $end) {
                throw new RuntimeException("not within 15 s: $what\n" . @$this->log() . @file_get_contents("$this->folder/sidecar.log"));
            }
        }
    }

    /** A client's connection. */
    public function connect(): Browser
    {
        return new Browser($this->port);
    }

    public function end(): void
    {
        if ($this->host !== null) {
            $this->signal(SIGTERM);
            $this->hostsEnd();
        }
        if (proc_get_status($this->sidecar)['running']) {
            $this->killSidecar();
        }
        array_map('unlink', glob("$this->folder/*"));
        rmdir($this->folder);
    }
}

/** A client with one keep-alive connection. */
final class Browser
{
    /** @var resource */
    private $stream;

    public function __construct(int $port)
    {
        $this->stream = stream_socket_client("tcp://127.0.0.1:$port", timeout: 10);
        stream_set_timeout($this->stream, 15);
    }

    public function send(string $method, string $path, string $body = '', string $fields = ''): void
    {
        $length = $body === '' ? '' : 'Content-Length: ' . strlen($body) . "\r\n";
        fwrite($this->stream, "$method $path HTTP/1.1\r\nHost: test\r\n$length$fields\r\n$body");
    }

    /** @return array{int, string, string} status, head and body; a status of 0 if the connection ended */
    public function receive(): array
    {
        for ($head = ''; ($line = fgets($this->stream)) !== "\r\n"; $head .= $line) {
            if ($line === false) {
                return [0, $head, ''];
            }
        }
        $body = '';
        if (preg_match('/^content-length: (\d+)/mi', $head, $length)) {
            $body = $length[1] === '0' ? '' : stream_get_contents($this->stream, (int) $length[1]);
        } elseif (preg_match('/^transfer-encoding: chunked/mi', $head)) {
            while (($size = hexdec(trim((string) fgets($this->stream)))) > 0) {
                $body .= stream_get_contents($this->stream, $size);
                fgets($this->stream);
            }
            fgets($this->stream);
        }
        return [(int) substr($head, 9, 3), $head, $body];
    }

    /** Send something and read a line. */
    public function line(string $text): string
    {
        fwrite($this->stream, $text);
        return (string) fgets($this->stream);
    }

    /** @return array{int, string, string} */
    public function ask(string $method, string $path, string $body = '', string $fields = ''): array
    {
        $this->send($method, $path, $body, $fields);
        return $this->receive();
    }
}
