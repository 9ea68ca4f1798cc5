#!/bin/sh
# Whether HAProxy would take the rendered file: its own test of its own settings, with the staged file
# in the place of the one that serves.
set -eu
staged=$ONEIRIC_STAGED_DIR

sed "s#/etc/haproxy/secrets/#$staged/#" /etc/haproxy/haproxy.cfg >"$staged/haproxy.cfg"
if ! said=$(haproxy -c -q -f "$staged/haproxy.cfg" 2>&1); then
    echo "$said" | grep -m 1 ALERT >&2 || echo "haproxy -c failed" >&2
    exit 1
fi

# HAProxy does not look at how long a certificate lasts.
if ! openssl x509 -in "$staged/site.pem" -noout -checkend 86400 >/dev/null; then
    echo "the certificate ends within a day" >&2
    exit 1
fi
