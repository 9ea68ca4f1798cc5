#!/bin/sh
# PostgreSQL has no test of its settings, and after a reload with a key that does not fit it goes on
# with the old one and only says so in its log. So it is found out here.
set -eu
staged=$ONEIRIC_STAGED_DIR

of_certificate=$(openssl x509 -in "$staged/server.crt" -noout -pubkey)
of_key=$(openssl pkey -in "$staged/server.key" -pubout)
if [ "$of_certificate" != "$of_key" ]; then
    echo "the key is not that of the certificate" >&2
    exit 1
fi
if ! openssl x509 -in "$staged/server.crt" -noout -checkend 86400 >/dev/null; then
    echo "the certificate ends within a day" >&2
    exit 1
fi
