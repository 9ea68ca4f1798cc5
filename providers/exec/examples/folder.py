#!/usr/bin/env python3
"""Secrets from a folder, one file for each: `folder.py FOLDER`."""
import base64, json, os, sys, threading, time

ROOT, MOST, SAYING = sys.argv[1], 64 * 1024, threading.Lock()
HELLO = {"oneiric": 1, "kind": "folder", "uri": "folder:" + ROOT, "max_value": MOST,
         "capabilities": ["stamps", "push", "binary", "list"]}

def say(line):
    with SAYING:
        print(json.dumps(line), flush=True)

def refused(kind, message):
    return {"error": {"kind": kind, "message": message}}

def read(key, most):
    if "/" in key or key.startswith("."):
        return refused("invalid", "a key is the name of a file")
    try:
        with open(os.path.join(ROOT, key), "rb") as file:
            status = os.fstat(file.fileno())
            stamp = f"{status.st_mtime_ns}-{status.st_ino}"
            # One byte more than may be, so that what is too large is seen to be.
            return {"base64": base64.b64encode(file.read(most)).decode(), "version": stamp, "stamp": stamp}
    except FileNotFoundError:
        there = os.path.isdir(ROOT)
        return refused("not_found" if there else "unavailable", "the file or the folder is not there")
    except PermissionError:
        return refused("denied", "the file may not be read")
    except OSError as error:
        return refused("invalid", error.strerror)

def keys():
    if not os.path.isdir(ROOT):
        return refused("unavailable", "the folder is not there")
    files = [entry.name for entry in os.scandir(ROOT) if entry.is_file()]
    return {"keys": sorted(name for name in files if not name.startswith("."))}

def answer(request):
    match request.get("op"):
        case "hello":
            return HELLO
        case "fetch":
            return read(request["key"], MOST + 1)
        case "stamps":
            return {"stamps": [read(key, 0) for key in request["keys"]]}
        case "list":
            return keys()
    return refused("unsupported", "a folder cannot do that")

def watch():
    """A file that is renamed into the folder changes the folder; one that is written to does not."""
    known = os.stat(ROOT).st_mtime_ns
    while True:
        time.sleep(0.1)
        seen = os.stat(ROOT).st_mtime_ns if os.path.isdir(ROOT) else known
        if seen != known:
            say({"change": {}})
        known = seen

for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:  # Who cancels gets the answer all the same.
        say({"id": request["id"], **answer(request)})
    if request.get("op") == "hello":
        threading.Thread(target=watch, daemon=True).start()
