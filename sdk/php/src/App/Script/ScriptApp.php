<?php

declare(strict_types=1);

namespace Anteroom\App\Script;

use Anteroom\App\App;
use Anteroom\Http\Request;
use Anteroom\Http\Response;

/**
 * A script that prints its response, as for php-fpm: each request runs it in a process of its own, with the superglobals set.
 *
 * The process is a fork of the worker. It unwinds to the program's beginning by RunScript, so that the script runs at the top level.
 */
final class ScriptApp implements App
{
    /** @param \Closure(): void $afterFork lets go, in the fork, of what is the worker's alone */
    public function __construct(private readonly string $script, private readonly \Closure $afterFork)
    {
        Substitutes::define();
    }

    public function handle(Request $request): Response
    {
        $path = tempnam(is_writable('/dev/shm') ? '/dev/shm' : sys_get_temp_dir(), 'anteroom');
        $output = fopen($path, 'r');
        $head = tmpfile(); // shared with the fork, which leaves status and headers in it
        $pid = pcntl_fork();
        if ($pid === 0) {
            ($this->afterFork)();
            throw ScriptProcess::begin($this->script, $request, $path, $head);
        }
        if ($pid > 0) {
            while (pcntl_waitpid($pid, $status) === -1 && pcntl_get_last_error() === PCNTL_EINTR) {
            }
        }
        @unlink($path);
        $answer = json_decode(stream_get_contents($head), true);
        return match (true) {
            $pid === -1 => Response::text("No room for one more process.\n", 503),
            !is_array($answer) => Response::text("The script died.\n", 500),
            default => new Response($answer['status'], $answer['headers'], file: $output),
        };
    }
}
