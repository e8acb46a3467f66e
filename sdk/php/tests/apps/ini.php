<?php

header('Content-Type: text/plain');
echo ini_get('memory_limit'), function_exists('exec') ? ', exec' : ', no exec';
