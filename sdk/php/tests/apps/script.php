<?php

use function Anteroom\header;
use function Anteroom\setcookie;

$global = 'seen';

function throughGlobal(): string
{
    return $GLOBALS['global'] ?? 'not seen';
}

switch (array_key_first($_GET)) {
    case 'pid':
        echo getmypid();
        break;
    case 'redirect':
        header('Location: /elsewhere');
        break;
    case 'exit':
        echo 'half';
        exit(3);
    case 'throw':
        throw new DomainException('as it was told');
    case 'fatal':
        (function (int $number) {
        })('no number');
        // no break: it does not get here
    case 'die':
        posix_kill(getmypid(), SIGKILL);
        // no break: it does not get here
    case 'long':
        echo str_repeat('abc', 1_000_000);
        break;
    case 'flush':
        echo 'flu';
        while (ob_get_level() > 0) {
            ob_end_flush();
        }
        flush();
        echo 'shed';
        break;
    default:
        header('HTTP/1.1 201 Created');
        header('content-type: application/json');
        setcookie('seen', 'yes', ['path' => '/', 'httponly' => true]);
        echo json_encode([
            'get' => $_GET,
            'post' => $_POST,
            'cookie' => $_COOKIE,
            'method' => $_SERVER['REQUEST_METHOD'],
            'uri' => $_SERVER['REQUEST_URI'],
            'input' => file_get_contents('php://stdin'),
            'global' => throughGlobal(),
        ]);
}
