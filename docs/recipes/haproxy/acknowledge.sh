#!/bin/sh
# 0 once every worker of before the reload has ended, and what HAProxy serves is the certificate that is
# in place. To see the new one is not enough: for a moment old and new workers accept side by side.
set -eu
for worker in $(cat /run/oneiric/haproxy-workers); do
    if [ -e "/proc/$worker" ]; then
        echo "the worker $worker of before the reload goes on" >&2
        exit 1
    fi
done

placed=$(openssl x509 -in /etc/haproxy/secrets/site.pem -noout -fingerprint -sha256)
served=$(openssl s_client -connect 127.0.0.1:8443 -servername shop.internal </dev/null 2>/dev/null |
    openssl x509 -noout -fingerprint -sha256 2>/dev/null) || served=
if [ "$served" != "$placed" ]; then
    echo "HAProxy does not serve the certificate that is in place" >&2
    exit 1
fi
