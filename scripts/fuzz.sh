#!/bin/sh
# fuzz.sh TIME: runs every fuzz target of the module for TIME (as 10s), one
# after the other. A failing input is left in the package's testdata/fuzz.
set -eu
time=${1:-10s}
# shellcheck disable=SC2016 # a template's variables
targets=$(go list -f '{{$dir := .Dir}}{{$path := .ImportPath}}{{range .TestGoFiles}}{{$path}} {{$dir}}/{{.}}
{{end}}{{range .XTestGoFiles}}{{$path}} {{$dir}}/{{.}}
{{end}}' ./... | while read -r package file; do
	sed -nE "s|^func (Fuzz[[:alnum:]_]*)\(.*|$package \1|p" "$file"
done)
if [ -z "$targets" ]; then
	echo "no fuzz targets"
	exit 0
fi
echo "$targets" | while read -r package target; do
	echo "--- $target ($package)"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" </dev/null
done
