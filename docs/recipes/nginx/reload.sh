#!/bin/sh
# Tells nginx of its new files, and keeps in mind which workers began before that.
set -eu
read -r master </run/nginx.pid
cat "/proc/$master/task/$master/children" >/run/oneiric/nginx-workers
kill -HUP "$master"
