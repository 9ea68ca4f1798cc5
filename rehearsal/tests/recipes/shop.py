#!/usr/bin/env python3
"""A server that is told of its socket as systemd tells it, and answers with its token."""

import os
import signal
import socket
import sys

if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
    sys.exit("there is no socket for this process")
token = os.environ["API_TOKEN"].encode()
asked_to_end = []
signal.signal(signal.SIGTERM, lambda *_: asked_to_end.append(True))
listener = socket.socket(fileno=3)
listener.settimeout(0.1)
with open(sys.argv[1] + ".new", "w") as ready:
    ready.write("ready\n")
os.rename(sys.argv[1] + ".new", sys.argv[1])

while not asked_to_end:
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        continue
    with connection:
        connection.setblocking(True)
        connection.sendall(token)
