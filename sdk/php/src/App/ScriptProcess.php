<?php

declare(strict_types=1);

namespace Anteroom\App;

use Anteroom\Http\Request;

/** The process that runs a script for one request: it prepares what the script sees, and keeps what it says by header(). */
final class ScriptProcess
{
    private const FATAL = E_ERROR | E_PARSE | E_CORE_ERROR | E_COMPILE_ERROR | E_USER_ERROR | E_RECOVERABLE_ERROR;

    /** @var array<string, list<string>> by name, as last written */
    private static array $headers = [];
    /** @var list<mixed> descriptors 0 and 1, which must stay open */
    private static array $standard = [];
    private static bool $failed = false;

    /**
     * Prepare this process. $output is the file that takes what the script prints, $head what is left for the worker.
     *
     * @param resource $head
     */
    public static function begin(string $script, Request $request, string $output, $head): RunScript
    {
        self::redirect($request, $output);
        self::setGlobals($script, $request);
        self::$headers = ['Content-Type' => ['text/html; charset=UTF-8']];
        chdir(dirname($script));
        set_exception_handler(self::fail(...));
        register_shutdown_function(self::end(...), $head);
        ob_start(); // so that http_response_code can be set to the end
        return new RunScript($script);
    }

    /** As PHP's own, whose headers the command line's PHP throws away. */
    public static function header(string $header, bool $replace = true, int $status = 0): void
    {
        if (preg_match('~^HTTP/\d(?:\.\d)? (\d{3})~', $header, $part)) {
            http_response_code((int) $part[1]);
            return;
        }
        [$name, $value] = explode(':', $header, 2) + ['', ''];
        $name = ucwords(strtolower(trim($name)), '-');
        self::$headers[$name] = [...($replace ? [] : self::$headers[$name] ?? []), trim($value)];
        if ($status > 0) {
            http_response_code($status);
        } elseif ($name === 'Location' && !in_array(http_response_code(), [201, ...range(300, 399)], true)) {
            http_response_code(302);
        }
    }

    public static function removeHeader(?string $name): void
    {
        if ($name === null) {
            self::$headers = [];
        } else {
            unset(self::$headers[ucwords(strtolower($name), '-')]);
        }
    }

    /** @return list<string> */
    public static function headers(): array
    {
        $lines = [];
        foreach (self::$headers as $name => $values) {
            foreach ($values as $value) {
                $lines[] = "$name: $value";
            }
        }
        return $lines;
    }

    /** Descriptors 0 and 1 become the request's body and the response's. */
    private static function redirect(Request $request, string $output): void
    {
        $body = tmpfile();
        if (($stream = $request->bodyStream()) !== null) {
            stream_copy_to_stream($stream, $body);
        }
        fflush($body);
        $path = stream_get_meta_data($body)['uri'];
        fclose(STDIN); // the next file opened gets the lowest free number, which is its
        $input = fopen($path, 'r');
        fclose(STDOUT);
        self::$standard = [$input, fopen($output, 'w')];
    }

    private static function setGlobals(string $script, Request $request): void
    {
        $_SERVER = $request->serverVariables($script) + getenv();
        $_GET = $request->parameters();
        $_POST = Form::fields($request);
        $_COOKIE = Form::cookies($request);
        $_REQUEST = $_POST + $_GET;
        $_FILES = [];
        $GLOBALS['argv'] = [];
        $GLOBALS['argc'] = 0;
    }

    private static function fail(\Throwable $why): void
    {
        error_log((string) $why);
        self::$failed = true;
    }

    /** @param resource $head */
    private static function end($head): void
    {
        while (ob_get_level() > 0) {
            ob_end_flush();
        }
        $failed = self::$failed || ((error_get_last()['type'] ?? 0) & self::FATAL);
        $status = http_response_code();
        fwrite($head, json_encode([
            'status' => is_int($status) ? $status : ($failed ? 500 : 200),
            'headers' => self::$headers,
        ], JSON_INVALID_UTF8_SUBSTITUTE));
        rewind($head); // for the worker, which shares the position
    }
}
