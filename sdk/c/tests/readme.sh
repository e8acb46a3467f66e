#!/bin/sh
# Installs the library somewhere, and builds and runs what README.md shows.
set -eu
directory=$(mktemp -d)
pids=
clean() {
	for pid in $pids; do kill -KILL "$pid" 2>/dev/null || :; done
	rm -rf "$directory"
}
trap clean EXIT

make --silent install PREFIX="$directory" BUILD="$directory/build"
# shellcheck disable=SC2016
sed -n '/^```c$/,/^```$/{/^```/!p}' README.md >"$directory/hello.c"
flags=$(PKG_CONFIG_PATH=$directory/lib/pkgconfig pkg-config --cflags --libs --static anteroom)
# shellcheck disable=SC2086
cc -Wall -Werror -o "$directory/hello" "$directory/hello.c" -Wl,-rpath,"$directory/lib" $flags

"$ANTEROOM_TEST_BINARY" serve --listen "unix://$directory/http.sock?ready=request" --handoff "$directory/handoff.sock" \
	--control "unix://$directory/control.sock" 2>"$directory/log" &
pids=$!
for _ in $(seq 200); do
	[ -S "$directory/handoff.sock" ] && break
	sleep 0.1
done
ANTEROOM_HANDOFF=$directory/handoff.sock "$directory/hello" 2>>"$directory/log" &
pids="$pids $!"
answers=$(curl --silent --show-error --max-time 20 --unix-socket "$directory/http.sock" http://test/ http://test/ | xargs)
[ "$answers" = "hello hello" ] || { echo "README's program answered: $answers" >&2; cat "$directory/log" >&2; exit 1; }
echo "README: ok"
