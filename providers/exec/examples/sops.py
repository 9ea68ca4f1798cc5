#!/usr/bin/env python3
"""Secrets from files that SOPS has encrypted: `sops.py FOLDER`, with `sops` on PATH.

A file whose name ends in .yaml, .json, .env or .ini is served as JSON, any other as it is.
"""
import base64, json, os, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor

ROOT, SAYING = sys.argv[1], threading.Lock()
HELLO = {"oneiric": 1, "kind": "sops", "uri": "sops:" + ROOT,
         "capabilities": ["stamps", "binary", "list"]}
STRUCTURED = (".yaml", ".yml", ".json", ".env", ".ini")
KEY_NOT_FOUND, MOST = 128, 512 * 1024  # An exit code of sops, and what one line can hold.

def refused(kind, message):
    return {"error": {"kind": kind, "message": message}}

def look(key):
    """The encrypted file and its stamp, both of one moment."""
    if "/" in key or key.startswith("."):
        return None, refused("invalid", "a key is the name of a file")
    try:
        with open(os.path.join(ROOT, key), "rb") as file:
            status = os.fstat(file.fileno())
            stamp = f"{status.st_mtime_ns}-{status.st_ino}"
            return file.read(), {"version": stamp, "stamp": stamp}
    except FileNotFoundError:
        there = os.path.isdir(ROOT)
        return None, refused("not_found" if there else "unavailable", "the file or the folder is not there")
    except PermissionError:
        return None, refused("denied", "the file may not be read")
    except OSError as error:
        return None, refused("invalid", error.strerror)

def decrypt(key):
    encrypted, found = look(key)
    if encrypted is None:
        return found
    kind = "json" if key.endswith(STRUCTURED) else "binary"
    # The value goes from pipe to pipe; the words of sops go to our own standard error.
    done = subprocess.run(["sops", "decrypt", "--filename-override", key, "--output-type", kind],
                          input=encrypted, stdout=subprocess.PIPE)
    if done.returncode == KEY_NOT_FOUND:
        return refused("unauthenticated", "none of the keys that are there opens it")
    if done.returncode != 0 or len(done.stdout) > MOST:
        return refused("invalid", "it cannot be decrypted, or is too large")
    return {"base64": base64.b64encode(done.stdout).decode(), **found}

def answer(request):
    match request.get("op"):
        case "hello":
            return HELLO
        case "fetch":
            return decrypt(request["key"])
        case "stamps":
            return {"stamps": [look(key)[1] for key in request["keys"]]}
        case "list" if os.path.isdir(ROOT):
            files = [entry.name for entry in os.scandir(ROOT) if entry.is_file()]
            return {"keys": sorted(name for name in files if not name.startswith("."))}
        case "list":
            return refused("unavailable", "the folder is not there")
    return refused("unsupported", "files of SOPS cannot do that")

def serve(request):
    line = json.dumps({"id": request["id"], **answer(request)})
    with SAYING:
        print(line, flush=True)

with ThreadPoolExecutor(4) as pool:  # Several at once, answered in any order.
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            pool.submit(serve, request)
