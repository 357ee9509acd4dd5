#!/bin/sh
# step.sh NAME COMMAND...: runs one long step. A line when it starts, one each
# minute while it runs, one with its seconds when it ends; its exit status.
set -u
name=$1
shift
start=$(date +%s)
seconds() { echo $(($(date +%s) - start)); }

echo "==> $name"
(
	trap 'kill "$nap" 2>/dev/null; exit' TERM
	while :; do
		sleep 60 &
		nap=$!
		wait "$nap"
		kill -0 $$ 2>/dev/null || exit # the step was killed
		echo "    $name: still running, $(seconds) s"
	done
) &
clock=$!
trap 'kill "$clock" 2>/dev/null' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$@"
status=$?
if [ "$status" = 0 ]; then
	echo "    $name: done in $(seconds) s"
else
	echo "    $name: FAILED after $(seconds) s" >&2
fi
exit "$status"
