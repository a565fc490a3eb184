#!/usr/bin/env bash
# Fetches manual pages for collect_text.py: Debian packages, unpacked but not installed.
# usage: research/fetch_man_pages.sh OUT     (OUT gets a folder for each package; it is Debian's apt that knows where from)
set -euo pipefail
if (($# != 1)); then sed -n 2,3p "$0" >&2; exit 2; fi
packages=(
    manpages manpages-dev coreutils util-linux
    bsdgames cups-client erlang-manpages freebsd-manpages krb5-user ldap-utils libarchive-dev libbsd-dev libcurl4-doc
    libibverbs-dev libpcap0.8-dev libssl-doc libtiff-tools libx11-doc libxext-dev ncurses-doc netcat-openbsd nmh
    openssh-client postgresql-client-15 postgresql-doc-15 sudo tcl8.6-doc tcllib tk8.6-doc tklib tmux x11-apps x11-utils
    x11-xserver-utils mandoc # mandoc is the program that renders the pages
)
mkdir -p "$1"
cd "$1"
for package in "${packages[@]}"; do
    [[ -d $package ]] && continue
    rm -rf fetched
    mkdir fetched
    (cd fetched && apt-get download -q "$package")
    dpkg-deb -x fetched/*.deb fetched/unpacked
    mv fetched/unpacked "$package"
done
rm -rf fetched
