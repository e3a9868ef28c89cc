"""A WSGI application: gunicorn --workers 2 --bind 127.0.0.1:N gunicorn_app:app"""

from answer import answer, refuse_to_start_if_told

refuse_to_start_if_told()


def app(environ, start_response):
    body = answer(environ["PATH_INFO"] + "?" + environ.get("QUERY_STRING", ""))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
