#!/usr/bin/env python3
"""Checks on a real project what Oneiric believes of Secret Manager and could never look at.

    gcloud auth login
    python3 docs/providers/gcp-check.py --project MY-PROJECT

It makes one secret, one topic and one subscription whose names begin with `oneiric-check-`, takes
at most ten minutes, and deletes them at the end. It costs less than a cent. You need the roles
Secret Manager Admin and Pub/Sub Admin, and Secret Manager must be able to publish to the topic:
the script prints the command that allows it, if it is not allowed. It reads no secret of yours.

Each line of the output is one belief: `ok`, or `DIFFERS` with what was seen. The numbers are those
of the list in docs/providers/gcp.md. Please report what differs. Exit code 1 if anything does.
"""

import argparse
import base64
import json
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

arguments = argparse.ArgumentParser(description="Checks beliefs about Secret Manager.")
arguments.add_argument("--project", required=True)
arguments.add_argument("--location", help="also checks regional secrets in this location")
arguments.add_argument("--patience", type=float, default=120, help="seconds to wait for what lags")
arguments.add_argument("--endpoint", default="https://secretmanager.googleapis.com")
arguments.add_argument("--pubsub", default="https://pubsub.googleapis.com")
arguments.add_argument("--token", help="instead of the one that gcloud prints")
given = arguments.parse_args()

token = given.token or subprocess.check_output(
    ["gcloud", "auth", "print-access-token"], text=True
).strip()
parent = f"projects/{given.project}"
name = f"oneiric-check-{uuid.uuid4().hex[:8]}"
secret = f"{parent}/secrets/{name}"
topic = f"{parent}/topics/{name}"
subscription = f"{parent}/subscriptions/{name}"
differs = []


def call(method, url, body=None, timeout=150):
    """The HTTP status, the JSON and the headers of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method)
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", "application/json")
    request.add_header("x-goog-user-project", given.project)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.loads(answer.read() or b"{}"), answer.headers
    except urllib.error.HTTPError as error:
        text = error.read()
        try:
            return error.code, json.loads(text), error.headers
        except ValueError:
            return error.code, {"error": {"status": "no JSON"}}, error.headers


def api(method, path, body=None, endpoint=None):
    status, answer, _ = call(method, f"{endpoint or given.endpoint}/v1/{path}", body)
    return status, answer


def code(answer):
    """An HTTP status and the code in its body."""
    status, body = answer
    return status, body.get("error", {}).get("status", "OK")


def check(number, belief, holds, seen):
    print(f"{'ok     ' if holds else 'DIFFERS'} {number:>2} {belief}")
    if not holds:
        print(f"           seen: {seen}")
        differs.append(number)


def until(holds, what):
    """Waits for what is eventually consistent; how long it took, or None."""
    start = time.monotonic()
    while time.monotonic() - start < given.patience:
        if holds():
            took = time.monotonic() - start
            print(f"           {what} after {took:.1f} s")
            return took
        time.sleep(0.5)
    print(f"           {what}: not within {given.patience:.0f} s")
    return None


def add(text, checksum=None):
    payload = {"data": base64.b64encode(text.encode()).decode()}
    if checksum is not None:
        payload["dataCrc32c"] = str(checksum)
    return api("POST", f"{secret}:addVersion", {"payload": payload})


def version(number):
    return f"{secret}/versions/{number}"


def events(wanted):
    """Messages of the subscription, until one of this type is among them."""
    seen = []
    start = time.monotonic()
    while time.monotonic() - start < given.patience:
        pulled = api("POST", f"{subscription}:pull", {"maxMessages": 50}, given.pubsub)[1]
        received = pulled.get("receivedMessages", [])
        if received:
            acks = [one["ackId"] for one in received]
            api("POST", f"{subscription}:acknowledge", {"ackIds": acks}, given.pubsub)
        seen += [one["message"] for one in received]
        if any(one.get("attributes", {}).get("eventType") == wanted for one in seen):
            break
    return seen


def run():
    allow = (
        f"gcloud pubsub topics add-iam-policy-binding {name} --role=roles/pubsub.publisher "
        "--member=serviceAccount:service-NUMBER@gcp-sa-secretmanager.iam.gserviceaccount.com"
    )
    api("PUT", topic, {}, given.pubsub)
    api("PUT", subscription, {"topic": topic}, given.pubsub)
    plain = {"replication": {"automatic": {}}}
    made = api("POST", f"{parent}/secrets?secretId={name}", plain)
    if made[0] != 200:
        sys.exit(f"the secret cannot be made: {made}")
    number = made[1]["name"].split("/")[1]
    check(1, "answers name the project by its number", number.isdigit(), made[1]["name"])
    again = code(api("POST", f"{parent}/secrets?secretId={name}", plain))
    check(2, "a secret that exists is 409 ALREADY_EXISTS", again == (409, "ALREADY_EXISTS"), again)
    none = code(api("GET", version("latest")))
    check(3, "`latest` of a secret without versions is 404", none == (404, "NOT_FOUND"), none)

    etag = made[1]["etag"]
    # The checksum of "123456789" that everybody publishes.
    first = add("123456789", 0xE3069283)
    check(4, "the first version is number 1", first[1].get("name", "").endswith("/1"), first)
    seen = first[1].get("clientSpecifiedPayloadChecksum")
    check(5, "a checksum that is sent is said to be looked at", seen is True, first)
    wrong = code(add("123456789", 1))
    check(6, "a wrong checksum is 400 INVALID_ARGUMENT", wrong == (400, "INVALID_ARGUMENT"), wrong)
    empty = code(add(""))
    check(7, "an empty value is 400 INVALID_ARGUMENT", empty == (400, "INVALID_ARGUMENT"), empty)
    second = add("two")
    at_once = [code(api("GET", version(2)))[0], code(api("GET", f"{version(2)}:access"))[0]]
    check(8, "a new version is there by number at once", at_once == [200, 200], at_once)
    following = second[1].get("name", "").endswith("/2")
    check(9, "what is refused takes no number", following, second)
    now = api("GET", secret)[1].get("etag")
    check(10, "adding a version leaves the etag of the secret", now == etag, [etag, now])
    until(
        lambda: api("GET", version("latest"))[1].get("name", "").endswith("/2"),
        "`latest` is the new version",
    )
    read = api("GET", f"{version(1)}:access")[1]["payload"].get("dataCrc32c")
    check(11, "a read has the checksum", read == str(0xE3069283), read)

    moved = {"etag": etag, "versionAliases": {"current": "1"}}
    patch = f"{secret}?updateMask=versionAliases"
    first_move = api("PATCH", patch, moved)
    check(12, "an alias is moved with the etag", first_move[0] == 200, first_move)
    stale = code(api("PATCH", patch, moved))
    expected = (400, "FAILED_PRECONDITION")
    check(13, "a stale etag is 400 FAILED_PRECONDITION", stale == expected, stale)
    until(
        lambda: api("GET", secret)[1].get("versionAliases") == {"current": "1"},
        "GetSecret shows the alias",
    )
    listed = urllib.parse.quote(f"name:{name}")
    until(
        lambda: any(
            one.get("versionAliases") == {"current": "1"}
            for one in api("GET", f"{parent}/secrets?pageSize=25000&filter={listed}")[1].get(
                "secrets", []
            )
        ),
        "ListSecrets shows the alias",
    )
    fresh = api("GET", secret)[1]["etag"]
    nowhere = {"etag": fresh, "versionAliases": {"current": "99"}}
    refused = code(api("PATCH", patch, nowhere))
    check(14, "an alias of no version is refused", refused[0] == 400, refused)

    held = api("GET", version(2))[1]
    off = api("POST", f"{version(2)}:disable", {"etag": held["etag"]})
    check(15, "a version is disabled with its etag", off[0] == 200, off)
    until(lambda: code(api("GET", f"{version(2)}:access"))[0] == 400, "reads of it are refused")
    closed = code(api("GET", f"{version('latest')}:access"))
    check(16, "a disabled `latest` is 400 FAILED_PRECONDITION", closed == expected, closed)
    raced = code(api("POST", f"{version(2)}:enable", {"etag": held["etag"]}))
    check(17, "a stale etag of a version is the same", raced == expected, raced)
    enabled = api("GET", f"{secret}/versions?filter=state:ENABLED&pageSize=1")[1]
    newest = [one["name"].rsplit("/", 1)[1] for one in enabled.get("versions", [])]
    check(18, "the newest that is enabled is listed first", newest == ["1"], enabled)
    add("three")
    until(
        lambda: [
            one["name"].rsplit("/", 1)[1]
            for one in api("GET", f"{secret}/versions?pageSize=10")[1].get("versions", [])
        ]
        == ["3", "2", "1"],
        "versions are listed, the newest first",
    )
    api("POST", f"{version(2)}:destroy", {})
    gone = code(api("GET", f"{version(2)}:access"))
    check(19, "a destroyed version is 400 FAILED_PRECONDITION", gone == expected, gone)

    fresh = api("GET", secret)[1]["etag"]
    told = {"etag": fresh, "topics": [{"name": topic}]}
    allowed = api("PATCH", f"{secret}?updateMask=topics", told)
    if allowed[0] != 200:
        print(f"SKIPPED 20-24: {allowed[1].get('error', {}).get('message')}")
        print(f"           allow it, and run this again: {allow.replace('NUMBER', number)}")
    else:
        pushed()

    start = time.monotonic()
    status, answer, _ = call("POST", f"{given.pubsub}/v1/{subscription}:pull", {"maxMessages": 1})
    took = time.monotonic() - start
    check(25, "an idle pull is held open", took > 1 and status == 200, [took, status, answer])
    print(f"           it was held for {took:.0f} s")
    if given.location:
        regional()


def pushed():
    """What events look like, on a topic of the secret itself."""
    added = add("four")[1]["name"]
    seen = events("SECRET_VERSION_ADD")
    event = [one for one in seen if one["attributes"].get("eventType") == "SECRET_VERSION_ADD"]
    attributes = event[0]["attributes"] if event else {}
    of_secret, of_version = attributes.get("secretId"), attributes.get("versionId")
    check(20, "an event names the secret", of_secret == added.rsplit("/", 2)[0], seen)
    check(21, "an event names the version", of_version == added, attributes)
    data = json.loads(base64.b64decode(event[0]["data"])) if event else {}
    check(22, "an event carries the version", data.get("name") == added, data)
    fresh = api("GET", secret)[1]["etag"]
    moved = {"etag": fresh, "versionAliases": {"current": "3"}}
    api("PATCH", f"{secret}?updateMask=versionAliases", moved)
    seen = events("SECRET_UPDATE")
    updates = [one for one in seen if one["attributes"].get("eventType") == "SECRET_UPDATE"]
    data = json.loads(base64.b64decode(updates[-1]["data"])) if updates else {}
    check(23, "the move of an alias is an event", bool(updates), seen)
    pointer = data.get("versionAliases")
    check(24, "it carries the aliases", pointer == {"current": "3"}, data)


def regional():
    """Secrets of one location have an address of their own."""
    host = f"https://secretmanager.{given.location}.rep.googleapis.com"
    here = f"{parent}/locations/{given.location}"
    made = api("POST", f"{here}/secrets?secretId={name}", {}, host)
    check(26, "a regional secret is made at its own address", made[0] == 200, made)
    api("DELETE", f"{here}/secrets/{name}", None, host)


try:
    run()
finally:
    api("DELETE", secret)
    api("DELETE", subscription, None, given.pubsub)
    api("DELETE", topic, None, given.pubsub)
print(f"{len(differs)} of the beliefs differ" if differs else "every belief holds")
sys.exit(1 if differs else 0)
