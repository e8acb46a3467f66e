#!/bin/sh
# The example server, built with sanitizers, behind the real sidecar: 1,000 requests over 20 kept connections, a sidecar that is killed and
# comes back, a host that leaves. ANTEROOM_TEST_BINARY names the sidecar's binary.
set -eu
directory=$(mktemp -d)
sidecar=''
server=''
clean() {
	for pid in $sidecar $server; do kill -KILL "$pid" 2>/dev/null || :; done
	rm -rf "$directory"
}
trap clean EXIT

fail() {
	echo "$1" >&2
	cat "$directory"/*.log >&2
	exit 1
}

# eventually WHAT COMMAND...: waits until the command succeeds.
eventually() {
	what=$1
	shift
	for _ in $(seq 200); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.1
	done
	fail "$what did not happen within 20 s"
}

start_sidecar() {
	"$ANTEROOM_TEST_BINARY" serve --listen "unix://$directory/http.sock?ready=request" --handoff "$directory/handoff.sock" \
		--control "unix://$directory/control.sock" >>"$directory/sidecar.log" 2>&1 &
	sidecar=$!
	eventually "the sidecar's start" "$ANTEROOM_TEST_BINARY" healthcheck --control "unix://$directory/control.sock"
}

get() {
	curl --silent --no-progress-meter --show-error --fail --max-time 10 --unix-socket "$directory/http.sock" "$@"
}

"$ANTEROOM_TEST_BINARY" version >/dev/null
ANTEROOM_HANDOFF=$directory/handoff.sock build/server-checked 2>"$directory/server.log" &
server=$!
start_sidecar
eventually "the first answer" get http://test/

answers=$(get --parallel --parallel-max 20 'http://test/pid?[1-1000]' | sort | uniq -c | xargs)
[ "$answers" = "1000 $server" ] || fail "1,000 requests gave: $answers"
for path in bytes stream file; do
	[ "$(get "http://test/$path?n=3000000" | wc -c)" = 3000000 ] || fail "/$path is not whole"
done

kill -KILL "$sidecar"
wait "$sidecar" 2>/dev/null || :
start_sidecar
eventually "an answer after the sidecar's return" get http://test/

get 'http://test/sleep?ms=500' >"$directory/slept" &
last=$!
sleep 0.2
kill -TERM "$server"
wait "$last" || fail "the request under way was lost"
[ "$(cat "$directory/slept")" = slept ] || fail "the request under way got another answer"
wait "$server" || fail "the server ended with status $?"
server=''
echo "real sidecar: ok"
