"""Flask-SocketIO on green threads: python flask_socketio_green_app.py --mode gevent|eventlet --port N [--host H]"""

import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--mode", choices=["gevent", "eventlet"], required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--host", default="127.0.0.1")
args = parser.parse_args()

# Before anything else imports socket.
if args.mode == "gevent":
    from gevent import monkey

    monkey.patch_all()
else:
    import eventlet

    eventlet.monkey_patch()

from flask import Flask, Response, request
from flask_socketio import SocketIO

from answer import answer, refuse_to_start_if_told

app = Flask(__name__)
socketio = SocketIO(app, async_mode=args.mode)


@app.get("/")
@app.get("/slow")
def root():
    return Response(answer(request.full_path), mimetype="application/json")


refuse_to_start_if_told()
socketio.run(app, host=args.host, port=args.port, log_output=False)
