<?php

declare(strict_types=1);

namespace Anteroom\App\Script;

/**
 * Functions of PHP that the command line has and that do nothing there, such as header().
 *
 * PHP lets a program define a function of its own in the place of one that is disabled, and functions are disabled when PHP starts.
 */
final class Substitutes
{
    private const DISABLED = ['header', 'header_remove', 'headers_list', 'headers_sent', 'http_response_code', 'setcookie', 'setrawcookie',
        'is_uploaded_file', 'move_uploaded_file'];

    /** Start this program again, with the same arguments and those functions disabled, unless they are. Throws \RuntimeException. */
    public static function ensure(): void
    {
        if (!function_exists(self::DISABLED[0])) {
            return;
        }
        $command = explode("\0", rtrim((string) file_get_contents('/proc/self/cmdline'), "\0"));
        $disabled = implode(',', [...self::DISABLED, ...array_filter([ini_get('disable_functions')])]);
        $program = (int) array_search($_SERVER['argv'][0], $command, true); // behind PHP's own options, of which the last counts
        array_splice($command, $program, 0, ['-d', "disable_functions=$disabled"]);
        pcntl_exec(PHP_BINARY, array_slice($command, 1));
        throw new \RuntimeException('Cannot start ' . PHP_BINARY . ': ' . pcntl_strerror(pcntl_get_last_error()));
    }

    public static function define(): void
    {
        require_once __DIR__ . '/functions.php';
    }
}
