"""A Flask and a Django app that answer alike, for servers that are processes of their own."""

import io
import os
import sys
import time

FOLDER = os.environ.get("TEST_FOLDER", "")


def flask_app():
    import flask

    app = flask.Flask(__name__)

    @app.route("/", methods=["GET", "POST"])
    def hello():
        return f"flask {flask.request.method} {len(flask.request.get_data())}"

    @app.route("/ignore", methods=["POST"])
    def ignore():
        return "flask ignores the body"

    @app.route("/file")
    def file():
        return flask.send_file(os.path.join(FOLDER, "file"), mimetype="text/plain", conditional=True)

    return app


def django_app():
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import FileResponse, HttpResponse
    from django.urls import path

    def hello(request):
        return HttpResponse(f"django {request.method} {len(request.body)}")

    def ignore(request):
        return HttpResponse("django ignores the body")

    def file(request):
        return FileResponse(open(os.path.join(FOLDER, "file"), "rb"), content_type="text/plain")

    urls = type("urls", (), {"urlpatterns": [path("", hello), path("ignore", ignore), path("file", file)]})
    settings.configure(
        ROOT_URLCONF=urls,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="test",
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    )
    django.setup()
    return get_wsgi_application()


def plain_app(environ, start_response):
    """Answers in the ways that matter to a server."""
    path = environ["PATH_INFO"]
    headers = [("Content-Type", "text/plain")]
    if path == "/sendfile":
        headers.append(("X-Sendfile", "file"))
    elif path == "/error":
        raise RuntimeError("on purpose")
    elif path == "/late":
        start_response("200 OK", headers + [("Content-Length", "10")])
        return late()
    elif path == "/where":
        body = "{REMOTE_ADDR} {SERVER_NAME} {SERVER_PORT}".format(**environ).encode()
        start_response("200 OK", headers + [("Content-Length", str(len(body)))])
        return [body]
    elif path == "/unreal":
        start_response("200 OK", headers + [("Content-Length", "6")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"unreal"))
    elif path == "/hold":
        print("holding", file=sys.stderr, flush=True)
        time.sleep(1)
    start_response("200 OK", headers)
    return [b"plain"]


def late():
    yield b"begun"
    raise RuntimeError("on purpose")
