cat >"$DIR/module.py" <<'END'
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"hello\n"})
END
python() { exec "$PYTHON" "$@"; }
cd "$DIR"
python -m anteroom module:app
