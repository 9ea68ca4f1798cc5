#!/bin/sh
# 0 once a new connection to PostgreSQL is shown the certificate that is in place.
set -eu
placed=$(openssl x509 -in /etc/postgresql/tls/server.crt -noout -fingerprint -sha256)
served=$(openssl s_client -connect 127.0.0.1:5432 -starttls postgres </dev/null 2>/dev/null |
    openssl x509 -noout -fingerprint -sha256 2>/dev/null) || served=
if [ "$served" != "$placed" ]; then
    echo "PostgreSQL does not serve the certificate that is in place" >&2
    exit 1
fi
