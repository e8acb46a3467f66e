<?php

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
    case 'upload':
        move_uploaded_file($_FILES['f']['tmp_name'], $to = tempnam(sys_get_temp_dir(), 'kept'));
        echo json_encode(['post' => $_POST, 'files' => $_FILES, 'moved' => file_get_contents($to)]);
        unlink($to);
        break;
    case 'session':
        session_save_path(sys_get_temp_dir());
        session_start();
        echo $_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
        if ($_SESSION['count'] === 2) {
            session_destroy();
        }
        break;
    case 'streams':
        fwrite($memory = fopen('php://memory', 'w+'), 'from memory');
        rewind($memory);
        echo stream_get_contents($memory);
        file_put_contents('php://output', ', by output');
        echo ', ', strlen(file_get_contents('php://stdin'));
        break;
    case 'headers':
        header('X-A: 1');
        header('X-A: 2', false);
        header('X-B: 3');
        header_remove('x-b');
        http_response_code(202);
        setcookie('a', 'b c', 0, '/p', 'example.com', true, true);
        setcookie('gone');
        echo json_encode([headers_list(), headers_sent(), http_response_code()]);
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
            'input' => file_get_contents('php://input'),
            'global' => throughGlobal(),
        ]);
}
