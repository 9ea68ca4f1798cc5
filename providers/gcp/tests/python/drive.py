"""Drives the fake with Google's own Python clients and prints what they saw, as JSON.

Usage: drive.py HOST:PORT PROJECT
"""

import json
import sys

from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import secretmanager_v1
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceRestTransport,
)
from google.protobuf import field_mask_pb2
from google.pubsub_v1.services.publisher import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherRestTransport
from google.pubsub_v1.services.subscriber import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberRestTransport
from google_crc32c import value as crc32c

host, project = sys.argv[1:]
line = {"host": host, "credentials": AnonymousCredentials(), "url_scheme": "http"}
secrets = secretmanager_v1.SecretManagerServiceClient(
    transport=SecretManagerServiceRestTransport(**line)
)
topic = f"projects/{project}/topics/python"
subscription = f"projects/{project}/subscriptions/python"
parent = f"projects/{project}"
name = f"{parent}/secrets/python"
saw = {}


def refused(call, *args, **kwargs):
    """The exception that a call ends with, and the code that it was answered with."""
    try:
        call(*args, **kwargs, retry=None)
    except exceptions.GoogleAPICallError as error:
        return [type(error).__name__, error.response.json()["error"]["status"]]
    return "nothing"


publisher = PublisherClient(transport=PublisherRestTransport(**line))
subscriber = SubscriberClient(transport=SubscriberRestTransport(**line))
publisher.create_topic(name=topic)
subscriber.create_subscription(name=subscription, topic=topic)

made = {
    "parent": parent,
    "secret_id": "python",
    "secret": {
        "replication": {"automatic": {}},
        "labels": {"team": "x"},
        "topics": [{"name": topic}],
    },
}
saw["created"] = secrets.create_secret(made).name
saw["created_again"] = refused(secrets.create_secret, made)
saw["empty_latest"] = refused(secrets.access_secret_version, name=f"{name}/versions/latest")

for number in range(1, 13):
    data = f"value-{number}".encode()
    payload = {"data": data, "data_crc32c": crc32c(data)}
    added = secrets.add_secret_version(parent=name, payload=payload)
saw["added"] = added.name
saw["checksum_specified"] = added.client_specified_payload_checksum
saw["wrong_checksum"] = refused(
    secrets.add_secret_version, {"parent": name, "payload": {"data": b"x", "data_crc32c": 1}}
)
latest = secrets.access_secret_version(name=f"{name}/versions/latest")
saw["latest"] = [latest.name, latest.payload.data.decode()]
saw["checksum_matches"] = latest.payload.data_crc32c == crc32c(latest.payload.data)

secret = secrets.get_secret(name=name)
mask = field_mask_pb2.FieldMask(paths=["version_aliases"])
secret.version_aliases["current"] = 7
updated = secrets.update_secret(secret=secret, update_mask=mask)
saw["aliases"] = dict(updated.version_aliases)
saw["stale_etag"] = refused(secrets.update_secret, secret=secret, update_mask=mask)
by_alias = secrets.access_secret_version(name=f"{name}/versions/current")
saw["by_alias"] = by_alias.payload.data.decode()

version = secrets.get_secret_version(name=f"{name}/versions/12")
secrets.disable_secret_version({"name": version.name, "etag": version.etag})
saw["disabled_latest"] = refused(secrets.access_secret_version, name=f"{name}/versions/latest")
saw["stale_version_etag"] = refused(
    secrets.enable_secret_version, {"name": version.name, "etag": version.etag}
)
secrets.destroy_secret_version({"name": f"{name}/versions/1"})
saw["destroyed"] = refused(secrets.access_secret_version, name=f"{name}/versions/1")
saw["missing"] = refused(secrets.access_secret_version, name=f"{name}/versions/99")
listed = secrets.list_secret_versions({"parent": name, "page_size": 5})
saw["versions"] = [
    [int(version.name.rsplit("/", 1)[1]), version.state.name] for version in listed
]
enabled = secrets.list_secret_versions({"parent": name, "filter": "state:ENABLED", "page_size": 1})
saw["newest_enabled"] = next(iter(enabled)).name.rsplit("/", 1)[1]
saw["secrets"] = [secret.name for secret in secrets.list_secrets({"parent": parent, "page_size": 1})]

events = []
while len(events) < 16:
    pulled = subscriber.pull(subscription=subscription, max_messages=10).received_messages
    subscriber.acknowledge(
        subscription=subscription, ack_ids=[received.ack_id for received in pulled]
    )
    events += [received.message for received in pulled]
saw["events"] = [event.attributes["eventType"] for event in events]
last_added = [event for event in events if event.attributes["eventType"] == "SECRET_VERSION_ADD"][-1]
saw["event_version"] = last_added.attributes["versionId"]
saw["event_resource"] = json.loads(last_added.data)["name"]

print(json.dumps(saw))
