"""What every Python server here answers, so that the load client can read each of them in the same way."""

import json
import os
import time
from urllib.parse import parse_qs, urlsplit


def refuse_to_start_if_told():
    """A bad version of a real server: the file named by TESTKIT_FAULT exists, so the program dies while it boots."""
    fault = os.environ.get("TESTKIT_FAULT")
    if fault and os.path.exists(fault):
        raise ImportError("this version is broken: " + fault + " exists")


def answer(target):
    """The body for the request target: who answered (pid, generation) and which request this is (n)."""
    url = urlsplit(target)
    query = parse_qs(url.query)
    if url.path == "/slow":
        time.sleep(int(query.get("ms", ["100"])[0]) / 1000)
    return json.dumps(
        {
            "pid": os.getpid(),
            "generation": os.environ.get("STAYPUT_GENERATION", ""),
            "n": query.get("n", [""])[0],
        }
    ).encode()
