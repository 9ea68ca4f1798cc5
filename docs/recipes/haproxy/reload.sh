#!/bin/sh
# Tells HAProxy's master of the new file, and keeps in mind which workers began before that.
set -eu
read -r master </run/haproxy.pid
cat "/proc/$master/task/$master/children" >/run/oneiric/haproxy-workers
kill -USR2 "$master"
