"""A Socket.IO client in Python: counts records, breaks its connection after five, comes back where it was when it is told to."""

import queue
import sys

import socketio

WITHIN = 15
url, token = sys.argv[1:3]
got, since = [], None
arrived = queue.Queue()
client = socketio.Client(reconnection=False)


@client.on("hello")
def hello(data):
    global since
    if since is None:
        since = data["cursor"]
        print("connected", flush=True)


@client.on("record")
def record(data):
    arrived.put(data["cursor"])


def collect(count):
    """Waits until so many records are there."""
    global since
    while len(got) < count:
        try:
            since = arrived.get(timeout=WITHIN)
        except queue.Empty:
            sys.exit(f"not in time: {len(got)} records of {count}")
        got.append(int(since.split("-")[1]))


client.connect(url, auth={"token": token}, transports=["websocket"])
collect(5)
client.disconnect()
print("broken", flush=True)
# Whoever plays the instance says when enough has happened without us.
sys.stdin.readline()
client.connect(url, auth={"token": token, "since": since}, transports=["websocket"])
collect(55)
if got != list(range(got[0], got[0] + 55)):
    sys.exit(f"out of order: {got}")
print("55 in order", flush=True)
client.disconnect()
