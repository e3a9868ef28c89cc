"""The server of `python -m http.server`, threaded, with HTTP/1.1: python http_server.py --port N [--host H]"""

import argparse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from answer import answer, refuse_to_start_if_told


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One write for head and body: otherwise Nagle and delayed acknowledgements add 40 ms to each answer.
    wbufsize = -1

    def do_GET(self):
        body = answer(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    args = parser.parse_args()
    refuse_to_start_if_told()
    ThreadingHTTPServer((args.host, args.port), Handler).serve_forever()
