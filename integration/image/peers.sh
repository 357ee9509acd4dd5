#!/bin/sh
# Builds a Debian tree with programs that stand beside the plugin or in for AWS, into DIR,
# which must not exist: HAProxy, stunnel and fio to measure beside; moto, which plays AWS's
# services, a DNS server, and a registry to test with.
# usage: peers.sh SUITE DIR       (root on Debian 12 or 13, after packages.sh)
set -eu
suite=$1
out=$2
. "$(dirname "$0")/bootstrap.sh"

bootstrap "$out" haproxy,stunnel4,fio,openssl,python3-moto,python3-flask,python3-flask-cors,python3-cryptography,dnsmasq-base,docker-registry
rm -rf "$out"/var/lib/apt/lists/* "$out"/var/cache/apt/*
