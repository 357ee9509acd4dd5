#!/bin/sh
# Builds a Debian tree with the programs that the relay is measured beside, HAProxy and
# stunnel, and fio, into DIR, which must not exist.
# usage: peers.sh SUITE DIR       (root on Debian 12 or 13, after packages.sh)
set -eu
suite=$1
out=$2
. "$(dirname "$0")/bootstrap.sh"

bootstrap "$out" haproxy,stunnel4,fio,openssl
rm -rf "$out"/var/lib/apt/lists/* "$out"/var/cache/apt/*
