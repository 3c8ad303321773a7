#!/usr/bin/env bash
# Installs the Debian packages of the programs named, those that are missing only.
#
#   install_debian_packages.sh tests|bench PROGRAM...
#
# Without root (or off Debian) it says what is left out and how to get it, and goes on;
# with CI=true a missing program is an error.
set -euo pipefail

purpose=${1:?usage: install_debian_packages.sh tests|bench PROGRAM...}
shift
# A user's PATH need not have the directory of servers in it.
PATH=$PATH:/usr/sbin:/sbin

missing_of() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null 2>&1 || printf '%s ' "$program"
    done
}

# What has them in Debian, where that is not a package of the same name.
packages_of() {
    local program
    for program in "$@"; do
        case $program in
            gtlsclient) printf 'ngtcp2-client ' ;;
            h2load) printf 'nghttp2-client ' ;;
            nghttpx) printf 'nghttp2-proxy ' ;;
            *) printf '%s ' "$program" ;;
        esac
    done
}

missing=$(missing_of "$@")
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086 # a list of words
packages=$(packages_of $missing)

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Debian packages for the $purpose: $packages"
    apt-get update -q
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages
    missing=$(missing_of "$@")
    [ -n "$missing" ] || exit 0
    # shellcheck disable=SC2086 # a list of words
    packages=$(packages_of $missing)
fi

echo "Not installed: $missing" >&2
case $purpose in
    tests) echo "The integration tests that need them are left out (pytest's summary names each)." >&2 ;;
    bench) echo "What they measure or drive cannot be measured." >&2 ;;
esac
echo "To get them, as root on Debian: apt-get install $packages" >&2
[ "${CI:-}" != true ]
