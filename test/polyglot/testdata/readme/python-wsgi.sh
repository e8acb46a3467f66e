cat >"$DIR/module.py" <<'END'
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"hello\n"]
END
python() { exec "$PYTHON" "$@"; }
cd "$DIR"
python -m anteroom module:app
