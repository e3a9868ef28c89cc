"""A Socket.IO client in Python: counts records, breaks its connection after five, comes back where it was."""

import sys
import time

import socketio

url, token = sys.argv[1:3]
got, since = [], None
client = socketio.Client(reconnection=False)


@client.on("hello")
def hello(data):
    global since
    if since is None:
        since = data["cursor"]
        print("connected", flush=True)


@client.on("record")
def record(data):
    global since
    since = data["cursor"]
    got.append(int(since.split("-")[1]))


def until(condition):
    end = time.monotonic() + 15
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"not in time: {len(got)} records")
        time.sleep(0.02)


client.connect(url, auth={"token": token}, transports=["websocket"])
until(lambda: len(got) == 5)
client.disconnect()
print("broken", flush=True)
time.sleep(0.3)
client.connect(url, auth={"token": token, "since": since}, transports=["websocket"])
until(lambda: len(got) == 55)
if got != list(range(got[0], got[0] + 55)):
    sys.exit(f"out of order: {got}")
print("55 in order", flush=True)
client.disconnect()
