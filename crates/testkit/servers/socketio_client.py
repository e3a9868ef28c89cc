"""A Socket.IO client that tells what it sees, one JSON line per event: python socketio_client.py URL SECONDS

Lines: {"event": "connect"|"disconnect"|"tick"|"echo", "ms": since start, "pid"?, "generation"?, "seq"?}. It connects anew by itself, as
browsers do, and sends one `echo` after each connect.
"""

import json
import sys
import time

import socketio

START = time.monotonic()


def say(event, **more):
    print(json.dumps({"event": event, "ms": round((time.monotonic() - START) * 1000), **more}), flush=True)


def main():
    url, seconds = sys.argv[1], float(sys.argv[2])
    client = socketio.Client(reconnection=True, reconnection_delay=0.05, reconnection_delay_max=0.2)

    @client.event
    def connect():
        say("connect", transport=client.transport())
        client.emit("echo", "hello")

    @client.event
    def disconnect(*reason):
        say("disconnect")

    @client.on("tick")
    def tick(data):
        say("tick", **data)

    @client.on("echo")
    def echo(data):
        say("echo", **data)

    client.connect(url, transports=["websocket"], wait_timeout=10)
    deadline = START + seconds
    while time.monotonic() < deadline:
        time.sleep(0.05)
    client.disconnect()


main()
