mkdir "$DIR/node_modules"
ln -s "$ROOT/sdk/node" "$DIR/node_modules/anteroom"
cat >"$DIR/hello.js" <<'END'
const http = require('node:http');
const anteroom = require('anteroom');

const server = http.createServer((request, response) => response.end('hello\n'));

anteroom.serve(server);
END
PATH=$ROOT/bin:$PATH # where anteroom is
exec node "$DIR/hello.js"
