<?php

declare(strict_types=1);

namespace Anteroom\App\Script;

use Anteroom\App\Form;
use Anteroom\Http\Request;

/** The process that runs a script for one request: what the script finds there, and what is left of it for the worker. */
final class ScriptProcess
{
    private const FATAL = E_ERROR | E_PARSE | E_CORE_ERROR | E_COMPILE_ERROR | E_USER_ERROR | E_RECOVERABLE_ERROR;

    /** @var list<mixed> descriptors 0 and 1, which must stay open, and the body */
    private static array $open = [];

    /**
     * Prepare this process. $output is the file that takes what the script prints, $head what is left for the worker.
     *
     * @param resource $head
     */
    public static function begin(string $script, Request $request, string $output, $head): RunScript
    {
        self::redirect($request, $output);
        self::setGlobals($script, $request);
        chdir(dirname($script));
        set_exception_handler(static function (\Throwable $why): void {
            error_log((string) $why);
            Headers::fail();
        });
        register_shutdown_function(self::end(...), $head);
        ob_start();
        return new RunScript($script);
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
        self::$open = [$body, $input, fopen($output, 'w')];
        InputWrapper::install($path);
    }

    private static function setGlobals(string $script, Request $request): void
    {
        $_SERVER = $request->serverVariables($script) + getenv();
        $_GET = $request->parameters();
        [$_POST, $_FILES] = [Form::fields($request), []];
        $boundary = $request->method === 'POST' ? Uploads::boundary($request->header('content-type') ?? '') : null;
        if ($boundary !== null) {
            [$_POST, $_FILES] = Uploads::parse($boundary, $request->body());
        }
        $_COOKIE = Form::cookies($request);
        $_REQUEST = $_POST + $_GET;
        $GLOBALS['argv'] = [];
        $GLOBALS['argc'] = 0;
    }

    /** @param resource $head */
    private static function end($head): void
    {
        while (ob_get_level() > 0) {
            ob_end_flush();
        }
        if ((error_get_last()['type'] ?? 0) & self::FATAL) {
            Headers::fail();
        }
        self::keepSession();
        Uploads::clean();
        fwrite($head, json_encode(['status' => Headers::status(), 'headers' => Headers::fields()], JSON_INVALID_UTF8_SUBSTITUTE));
        rewind($head); // for the worker, which shares the position
    }

    /** Tell the client its session's id, which PHP would do by the header() that it lacks here. */
    private static function keepSession(): void
    {
        $id = function_exists('session_id') ? (string) session_id() : '';
        if ($id !== '' && ini_get('session.use_cookies') && ($_COOKIE[session_name()] ?? '') !== $id) {
            $cookie = session_get_cookie_params();
            $lifetime = $cookie['lifetime'];
            unset($cookie['lifetime']);
            Headers::cookie(session_name(), rawurlencode($id), ['expires' => $lifetime ? time() + $lifetime : 0] + $cookie, '', '', false, false);
        }
    }
}
