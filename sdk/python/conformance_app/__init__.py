"""The conformance app: the same small app in every language, here for WSGI and for ASGI."""
