<?php

declare(strict_types=1);

// For use without Composer: require this file.

spl_autoload_register(static function (string $class): void {
    if (str_starts_with($class, 'Anteroom\\')) {
        $file = __DIR__ . '/' . strtr(substr($class, 9), '\\', '/') . '.php';
        if (is_file($file)) {
            require $file;
        }
    }
});
