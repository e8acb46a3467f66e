mkdir "$DIR/src"
cat >"$DIR/Cargo.toml" <<END
[package]
name = "hello"
version = "0.1.0"
edition = "2021"

[dependencies]
anteroom = { path = "$ROOT/sdk/rust" }
END
cat >"$DIR/src/main.rs" <<'END'
use anteroom::{Host, Options};
use std::io::{Read, Write};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = Host::attach(Options::default(), |news| eprintln!("{news:?}"))?;
    while let Some(mut lease) = host.next() {
        let connection = lease.connection();
        connection.read(&mut [0; 65536])?;
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")?;
        lease.put(Duration::ZERO, 1);
    }
    Ok(())
}
END
PATH=$PATH:$HOME/.cargo/bin
cd "$DIR"
cargo build --quiet --offline
exec target/debug/hello
