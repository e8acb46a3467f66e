cat >"$DIR/app.php" <<'END'
<?php
use Anteroom\Http\{Request, Response};

return fn (Request $request) => Response::text("hello\n");
END
PATH=$ROOT/sdk/php/bin:$PATH
cd "$DIR"
exec anteroom-php app.php
