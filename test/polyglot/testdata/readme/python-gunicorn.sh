# It listens itself: the sidecar accepts on its socket.
cat >"$DIR/hello.py" <<'END'
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"hello\n"]
END
gunicorn() { exec "$PYTHON" -m gunicorn "$@"; }
cd "$DIR"
gunicorn --worker-class anteroom.gunicorn.Worker --bind "127.0.0.1:$PORT" hello:app
