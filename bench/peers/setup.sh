#!/bin/sh
# What `make bench-peers` needs besides this project: the servers, from Debian, and the peers' libraries in an environment
# of their own. Run again it does only what is missing. Packages must not start daemons, nor at the next start of the
# machine: the benchmark starts its own, on free ports of loopback and with data in a temporary folder.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
venv=${1:?usage: setup.sh ENVIRONMENT [PYTHON]}
python=${2:-python3}
packages="redis-server rabbitmq-server"
policy=/usr/sbin/policy-rc.d

missing=""
for package in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)" = "ii " ] || missing="$missing $package"
done

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "these servers are missing:$missing. They are installed on Debian and Ubuntu only, by apt-get" >&2
        exit 2
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "these packages are missing:$missing. As root: apt-get install --no-install-recommends$missing" >&2
        exit 2
    fi
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
    fi
    log=$(mktemp)
    # shellcheck disable=SC2086  # words on purpose
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
    } > "$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        exit 1
    fi
    rm -f "$log"
    if command -v systemctl >/dev/null; then
        # shellcheck disable=SC2086
        systemctl disable --quiet $missing
    fi
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
stamp="$venv/.installed"
if ! cmp -s "$here/requirements.txt" "$stamp"; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$stamp"
fi
