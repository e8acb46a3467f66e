<?php

// Run before anteroom-php: where its code asks for the time of day without saying so by a leading \, it fails.

foreach (['Anteroom', 'Anteroom\Runner', 'Anteroom\Http', 'Anteroom\App'] as $namespace) {
    foreach (['microtime', 'time', 'gettimeofday'] as $function) {
        eval("namespace $namespace; function $function() { throw new \LogicException('$function() tells the wall clock'); }");
    }
}
