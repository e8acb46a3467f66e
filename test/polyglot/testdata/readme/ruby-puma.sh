cat >"$DIR/config.ru" <<'END'
run ->(env) { [200, { "content-type" => "text/plain" }, ["hello\n"]] }
END
mkdir "$DIR/config"
echo 'plugin :anteroom' >"$DIR/config/puma.rb"
export RUBYLIB="$ROOT/sdk/ruby/lib"
cd "$DIR"
exec puma
