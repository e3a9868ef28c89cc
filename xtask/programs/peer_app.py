"""The same answer for servers that bring their own restart: gunicorn (`wsgi`) and uvicorn (`asgi`)."""

import json
import os
import time
from urllib.parse import parse_qs

path = os.environ.get("PEER_STARTS")
if path:
    with open(path, "a") as starts:
        starts.write(f"{os.getpid()}\n")
time.sleep(0.5)


def body(query):
    n = parse_qs(query).get("n", [""])[0]
    return json.dumps({"pid": os.getpid(), "generation": os.environ.get("STAYPUT_GENERATION", ""), "n": n}).encode()


def wsgi(environ, start_response):
    answer = body(environ.get("QUERY_STRING", ""))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    answer = body(scope["query_string"].decode())
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": answer})
