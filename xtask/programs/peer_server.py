"""The one server of `cargo xtask bench peers`: python peer_server.py --port N [--fd N] [--starts FILE]

It listens by itself, or on a socket that was handed to it in any of the ways that supervisors have: --fd, LISTEN_FDS, SERVER_STARTER_PORT. Half a
second of start, as a program with imports has. On SIGTERM it finishes what it has and ends: a polite server, so that what is lost is not its fault.
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BOOT_SECONDS = 0.5


def note_start(path):
    """One line per start: how many attempts a supervisor made."""
    if path:
        with open(path, "a") as starts:
            starts.write(f"{os.getpid()}\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        n = parse_qs(urlsplit(self.path).query).get("n", [""])[0]
        body = json.dumps({"pid": os.getpid(), "generation": os.environ.get("STAYPUT_GENERATION", ""), "n": n}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = False


def handed(args):
    """The descriptor of a socket that was handed to us, or None."""
    if args.fd is not None:
        return args.fd
    if os.environ.get("LISTEN_FDS"):
        return 3
    starter = os.environ.get("SERVER_STARTER_PORT")
    if starter:
        return int(starter.split(";")[0].rsplit("=", 1)[1])
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fd", type=int)
    parser.add_argument("--starts")
    args = parser.parse_args()
    note_start(args.starts)
    time.sleep(BOOT_SECONDS)
    descriptor = handed(args)
    address = ("127.0.0.1", args.port)
    if descriptor is None:
        server = Server(address, Handler)
    else:
        server = Server(address, Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = socket.socket(fileno=descriptor)
        server.socket.setblocking(True)
        server.server_address = server.socket.getsockname()
        server.server_name, server.server_port = "localhost", args.port
        server.socket.listen(128)

    def stop(*_):
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever(poll_interval=0.02)
    server.server_close()
    sys.exit(0)


main()
