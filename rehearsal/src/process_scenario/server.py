"""A service that knows nothing of Oneiric: an HTTP server that gets a token in its environment and a
listening socket from its parent, and ends on SIGTERM after what is under way.

It tries the token when it starts, as a careful service does, and answers each request with it.
"""

import asyncio
import os
import signal
import socket
import sys
import urllib.error
import urllib.request

TOKEN = os.environ["API_TOKEN"]
UPSTREAM, READY = sys.argv[1:3]
# The first descriptor that is handed over, by the protocol of systemd.
LISTENING = 3
# Long enough that only a kill ends it.
SLOW = 3600


def try_token():
    request = urllib.request.Request(UPSTREAM, headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        sys.exit(f"the upstream does not accept the token ({error.code})")


async def serve():
    async def answer(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /slow "):
                await asyncio.sleep(SLOW)
            body = TOKEN.encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client went away.
        finally:
            writer.close()

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listening = socket.socket(fileno=LISTENING)
    server = await asyncio.start_server(answer, sock=listening)
    with open(READY, "w", encoding="utf-8") as ready:
        ready.write(str(os.getpid()))
    await stop.wait()
    # No more from the queue: the next one takes those. The server is closed only after a few turns of
    # the loop: a closed one drops what it has accepted and has not begun with.
    asyncio.get_running_loop().remove_reader(listening)
    for _ in range(10):
        await asyncio.sleep(0)
    server.close()
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


assert os.environ["LISTEN_FDS"] == "1" and os.environ["LISTEN_PID"] == str(os.getpid())
try_token()
asyncio.run(serve())
