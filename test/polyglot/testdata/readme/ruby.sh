cat >"$DIR/config.ru" <<'END'
run ->(env) { [200, { "content-type" => "text/plain" }, ["hello\n"]] }
END
export RUBYLIB="$ROOT/sdk/ruby/lib"
cd "$DIR"
exec rackup --server anteroom
