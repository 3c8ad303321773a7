#!/usr/bin/env bash
# Makes the virtual environment $1, unless a working one is there already.
# Needs Python 3.11 or later; PYTHON names the interpreter to use instead of the first that fits.
set -euo pipefail

directory=${1:?usage: make_virtualenv.sh DIRECTORY}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if is_recent "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    echo "smartproxy needs Python 3.11 or later, and none was found." >&2
    echo "On Debian 12 or later: apt-get install python3 python3-venv" >&2
    return 1
}

if [ -x "$directory/bin/python" ] && "$directory/bin/python" -m pip --version >/dev/null 2>&1 \
    && is_recent "$directory/bin/python"; then
    exit 0
fi

python=$(find_python)
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    # Debian's interpreter comes without ensurepip.
    minor=$("$python" -c 'import sys; print(f"python3.{sys.version_info.minor}-venv")')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing $minor, which $python needs to make a virtual environment"
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$minor"
    else
        echo "$python cannot make a virtual environment. As root: apt-get install $minor" >&2
        exit 1
    fi
fi

echo "Making the virtual environment $directory with $("$python" --version)"
"$python" -m venv --clear "$directory"
