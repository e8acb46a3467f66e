# It listens itself: the sidecar accepts on its socket.
cat >"$DIR/hello.py" <<'END'
import os

import anteroom.cheroot
from cheroot.wsgi import Server

anteroom.cheroot.install()


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"hello\n"]


Server(("127.0.0.1", int(os.environ["PORT"])), app).safe_start()
END
exec "$PYTHON" "$DIR/hello.py"
