#!/bin/sh
# Whether nginx would take the rendered files: its own test of its own settings, with the staged files
# in the place of those that serve.
set -eu
staged=$ONEIRIC_STAGED_DIR

sed -e "s#/etc/nginx/secrets/#$staged/#" -e "s#^pid .*#pid $staged/nginx.pid;#" \
    /etc/nginx/nginx.conf >"$staged/nginx.conf"
if ! said=$(nginx -t -q -c "$staged/nginx.conf" 2>&1); then
    echo "$said" | grep -m 1 emerg >&2 || echo "nginx -t failed" >&2
    exit 1
fi

# nginx does not look at how long a certificate lasts,
if ! openssl x509 -in "$staged/site.crt" -noout -checkend 86400 >/dev/null; then
    echo "the certificate ends within a day" >&2
    exit 1
fi

# and at the password file only when somebody comes.
if ! grep -q . "$staged/users" || grep -Eqv '^[^:]+:\$apr1\$[^$]+\$[^$:]+$' "$staged/users"; then
    echo "a line of the password file is not NAME:\$apr1\$SALT\$HASH" >&2
    exit 1
fi
