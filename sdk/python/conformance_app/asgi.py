"""The conformance app for ASGI servers: ``application``. At /websocket it also echoes what comes over a WebSocket."""

import asyncio
import os

from .content import letters, number


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _websocket(scope, receive, send)
    else:
        await _Exchange(scope, receive, send).respond()


async def _lifespan(receive, send):
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


async def _websocket(scope, receive, send):
    await receive()
    if scope["path"] != "/websocket":
        return await send({"type": "websocket.close", "code": 1000})
    await send({"type": "websocket.accept"})
    message = await receive()
    while message["type"] == "websocket.receive":
        text = f"{message['text']} from {scope['client'][0]}"
        await send({"type": "websocket.send", "text": text})
        message = await receive()


class _Exchange:
    """One request and its response."""

    def __init__(self, scope, receive, send):
        self.scope = scope
        self.receive = receive
        self.send = send

    async def respond(self):
        method, path = self.scope["method"], self.scope["path"]
        if path == "/echo" and method in ("POST", "PUT"):
            return await self.echo()
        page = self.pages.get(path) if method in ("GET", "HEAD") else None
        return await (page(self) if page else self.text(404, "not found\n"))

    async def start(self, status, *headers):
        headers += tuple((name, value) for name, value in self.scope["headers"] if name == b"x-echo")
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def body(self, data=b"", more=False):
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def text(self, status, text, *headers):
        body = text.encode()
        await self.start(status, (b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), *headers)
        await self.body(body)

    def number(self, name):
        return number(self.scope["query_string"].decode("latin-1"), name)

    async def missing(self, name):
        await self.text(400, f"{name} must be a number from 0 to 100000000\n")

    async def hello(self):
        await self.text(200, "hello from python\n")

    async def echo(self):
        """The whole request first: the two sides of a client that sends all before it reads must not wait for each other."""
        blocks = []
        message = {"more_body": True}
        while message.get("more_body"):
            message = await self.receive()
            if message["type"] == "http.disconnect":
                return
            blocks.append(message.get("body", b""))
        length = sum(map(len, blocks))
        await self.start(200, (b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % length))
        for block in blocks:
            await self.body(block, more=True)
        await self.body()

    async def bytes(self):
        await self._letters(lambda count: ((b"content-length", b"%d" % count),))

    async def stream(self):
        await self._letters(lambda count: ())

    async def _letters(self, headers):
        count = self.number("n")
        if count is None:
            return await self.missing("n")
        await self.start(200, (b"content-type", b"text/plain"), *headers(count))
        if self.scope["method"] != "HEAD":
            for piece in letters(count):
                await self.body(piece, more=True)
        await self.body()

    async def status(self):
        code = self.number("code")
        if code is None or not 200 <= code <= 599:
            return await self.text(400, "code must be a number from 200 to 599\n")
        if code in (204, 304):
            await self.start(code)
            return await self.body()
        return await self.text(code, f"{code}\n")

    async def sleep(self):
        milliseconds = self.number("ms")
        if milliseconds is None:
            return await self.missing("ms")
        await asyncio.sleep(milliseconds / 1000)
        await self.text(200, "slept\n")

    async def close(self):
        await self.text(200, "bye\n", (b"connection", b"close"))

    async def peer(self):
        await self.text(200, f"{self.scope['client'][0]}\n")

    async def pid(self):
        await self.text(200, f"{os.getpid()}\n")

    async def crash(self):
        os._exit(1)

    async def upgrade(self):
        """ASGI knows of no upgrade but WebSocket."""
        await self.text(501, "there is no upgrade here\n")

    pages = {
        "/": hello,
        "/bytes": bytes,
        "/stream": stream,
        "/file": bytes,
        "/status": status,
        "/sleep": sleep,
        "/close": close,
        "/peer": peer,
        "/pid": pid,
        "/crash": crash,
        "/upgrade": upgrade,
    }
