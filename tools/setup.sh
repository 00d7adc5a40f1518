#!/bin/bash
# Makes a bare Debian 12 ready: the packages of packages.txt, .venv and .venv-clients from the lock files.
# What is there already costs nothing, so every make target may begin with this.
#
#     tools/setup.sh                     everything
#     tools/setup.sh packages FILE       the Debian packages of another list
#     tools/setup.sh venv DIRECTORY LOCK another environment
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }

wanted_packages() { sed 's/#.*//' "$1" | xargs -n1; }

missing_packages() {
    comm -23 <(wanted_packages "$1" | sort) \
        <(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' $(wanted_packages "$1") 2>/dev/null | awk '$1 == "ii" {print $2}' | sort)
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        sudo "$@"
    else
        fail "these packages are missing, and only root can install them. As root, type:
    apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    fi
}

# Debian's openvswitch, ovn, mariadb, memcached and rabbitmq packages start daemons of their own. Trilith runs its own, under its own supervisor, and theirs
# would hold the same ports and database. So nothing is started while packages are installed (policy-rc.d: 101 means
# "not allowed"), and nothing that came with this installation starts at the next boot. Services that were here before are
# left alone.
install_packages() {
    local packages=("$@") policy=/usr/sbin/policy-rc.d ours=
    say "installing ${packages[*]}"
    if [ ! -e $policy ]; then
        ours=1
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 0755 $policy
    fi
    local status=0
    { as_root apt-get -q update && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q install --yes --no-install-recommends "${packages[@]}"; } </dev/null >&2 || status=$?
    [ -z "$ours" ] || as_root rm -f $policy
    [ $status = 0 ] || fail "apt-get failed; its reason stands above"
    [ -d /run/systemd/system ] || return 0
    for package in "${packages[@]}"; do
        case $package in
            memcached | openvswitch-switch | ovn-central | ovn-host | rabbitmq-server) as_root systemctl disable --quiet --now "$package" || true ;;
            mariadb-server) as_root systemctl disable --quiet --now mariadb || true ;;
        esac
    done
}

find_python() {
    local python=/usr/bin/python3 # Debian's own, whatever else may come first in PATH
    [ -x $python ] || python=$(command -v python3) || fail "python3 is missing"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than 3.11: use Debian 12 or newer"
    echo "$python"
}

# uv does not read pip's configuration; whoever has set an index or a CA there means it.
follow_pip_configuration() {
    local pip=$1/bin/pip index certificate
    setting() { "$pip" config get ":env:.$1" 2>/dev/null || "$pip" config get "global.$1" 2>/dev/null; }
    if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ] && index=$(setting index-url); then export UV_DEFAULT_INDEX=$index; fi
    if [ -z "${SSL_CERT_FILE:-}" ] && certificate=$(setting cert); then export SSL_CERT_FILE=$certificate; fi
}

# make_venv DIRECTORY LOCK: exactly the locked versions, each checked against its hash. The stamp is a hash of what it was made from.
make_venv() {
    local venv=$1 lock=$2 python stamp
    stamp=$(cat requirements-uv.lock "$lock" pyproject.toml tools/setup.sh | sha256sum)
    [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$stamp" ] && return
    say "making $venv from $lock"
    python=$(find_python)
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
    follow_pip_configuration "$venv"
    # pip where uv does not understand the index that pip is configured with: slower, the same result
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --require-hashes -r "$lock" ||
        "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$lock"
    if [ "$venv" = .venv ]; then
        "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --offline --editable .
    fi
    echo "$stamp" >"$venv/.stamp"
}

ensure_packages() {
    mapfile -t missing < <(missing_packages "$1")
    if [ ${#missing[@]} -gt 0 ]; then install_packages "${missing[@]}"; fi
}

case "${1:-everything}" in
    packages) ensure_packages "$2" ;;
    venv) make_venv "$2" "$3" ;;
    everything)
        ensure_packages packages.txt
        # Machines run as a user of their own, who owns nothing else.
        id trilith >/dev/null 2>&1 || as_root useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin trilith
        make_venv .venv requirements-dev.lock
        make_venv .venv-clients requirements-clients.lock
        ;;
    *) fail "unknown: $1" ;;
esac
