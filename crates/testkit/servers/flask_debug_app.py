"""Flask's development server with debugger and reloader (two processes, one socket): python flask_debug_app.py --port N [--host H]"""

import argparse
import logging

from flask import Flask, Response, request

from answer import answer, refuse_to_start_if_told

app = Flask(__name__)


@app.get("/")
@app.get("/slow")
def root():
    return Response(answer(request.full_path), mimetype="application/json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    args = parser.parse_args()
    refuse_to_start_if_told()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app.run(host=args.host, port=args.port, debug=True)
