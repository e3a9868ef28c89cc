"""Flask-SocketIO in threading mode with live events: python flask_socketio_app.py --port N [--host H]

Events: the server emits `tick` {pid, generation, seq} five times a second, and answers `echo` with what it was sent.
"""

import argparse
import logging
import os
import time

from flask import Flask, Response, request
from flask_socketio import SocketIO, emit

from answer import answer, refuse_to_start_if_told

app = Flask(__name__)
socketio = SocketIO(app, async_mode="threading", cors_allowed_origins="*")


@app.get("/")
@app.get("/slow")
def root():
    return Response(answer(request.full_path), mimetype="application/json")


@app.get("/health")
def health():
    return "ok"


@socketio.on("echo")
def echo(data):
    emit("echo", {"pid": os.getpid(), "data": data})


def tick():
    seq = 0
    while True:
        seq += 1
        socketio.emit(
            "tick",
            {"pid": os.getpid(), "generation": os.environ.get("STAYPUT_GENERATION", ""), "seq": seq},
        )
        time.sleep(0.2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    args = parser.parse_args()
    refuse_to_start_if_told()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    socketio.start_background_task(tick)
    socketio.run(app, host=args.host, port=args.port, allow_unsafe_werkzeug=True)
