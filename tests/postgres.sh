#!/bin/sh
# Installs Debian's PostgreSQL for the tests that need a real one, where that is possible and there is none yet. Those
# tests start a server of their own, or use the one that SCOREWATCH_TEST_POSTGRES_URL names; without any they are skipped.
set -u
[ -z "${SCOREWATCH_TEST_POSTGRES_URL:-}" ] || exit 0
command -v initdb >/dev/null && command -v pg_ctl >/dev/null && exit 0
for found in /usr/lib/postgresql/*/bin/initdb; do
    [ -x "$found" ] && exit 0
done
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo 'PostgreSQL is not installed: the tests that need it will be skipped (Debian: apt-get install postgresql).' >&2
    exit 0
fi
echo "installing Debian's postgresql for the tests …"
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -qq && apt-get install -qq -y --no-install-recommends postgresql; } >/dev/null ||
    echo 'PostgreSQL could not be installed: the tests that need it will be skipped.' >&2
exit 0
