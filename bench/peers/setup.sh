#!/bin/sh
# What `make bench-peers` and `make bench-locks` need besides this project: servers, from Debian, and the peers' libraries
# in an environment of their own. Run again it does only what is missing. Packages must not start daemons, nor at the next
# start of the machine: the benchmark starts its own, on free ports of loopback and with data in a temporary folder.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
usage="usage: setup.sh ENVIRONMENT PYTHON PACKAGE..."
venv=${1:?$usage}
python=${2:?$usage}
shift 2
packages=${*:?$usage}
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
        # shellcheck disable=SC2046  # words on purpose; the unit of etcd-server is called etcd
        systemctl disable --quiet $(echo "$missing" | sed s/etcd-server/etcd/)
    fi
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
stamp="$venv/.installed"
protocols="$here/../locks/protocols"
if ! cat "$here/requirements.txt" "$protocols"/*.proto | cmp -s - "$stamp"; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    modules=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$venv/bin/python" -m grpc_tools.protoc -I "$protocols" \
        --python_out="$modules" --grpc_python_out="$modules" "$protocols"/*.proto
    cat "$here/requirements.txt" "$protocols"/*.proto > "$stamp"
fi
