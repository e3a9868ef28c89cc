"""An ASGI application: uvicorn --port N uvicorn_app:app"""

from answer import answer, refuse_to_start_if_told

refuse_to_start_if_told()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = answer(scope["path"] + "?" + scope["query_string"].decode())
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
