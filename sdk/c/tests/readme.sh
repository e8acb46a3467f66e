#!/bin/sh
# Installs the library somewhere, and builds README.md's program with it in the two ways: it finds the shared library by itself, and with
# pkg-config --static it needs none. scripts/run-readme shows that it serves.
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

make --silent install PREFIX="$directory" BUILD="$directory/build"
# shellcheck disable=SC2016
sed -n '/^```c$/,/^```$/{/^```/!p}' README.md >"$directory/hello.c"

# build FLAG...: what pkg-config says with these flags is all that the compiler needs.
build() {
	# shellcheck disable=SC2046
	cc -Wall -Werror -o "$directory/hello" "$directory/hello.c" $(PKG_CONFIG_PATH=$directory/lib/pkgconfig pkg-config --cflags --libs "$@" anteroom)
}

build
ldd "$directory/hello" | grep -q "libanteroom.so.0 => $directory/lib/" || { echo "the program does not find the shared library" >&2; exit 1; }
rm "$directory"/lib/libanteroom.so*
build --static
! readelf -d "$directory/hello" | grep NEEDED || { echo "--static has made a program that needs a shared library" >&2; exit 1; }
make --silent "$directory/build/anteroom.pc" PREFIX=/usr BUILD="$directory/build"
! grep rpath "$directory/build/anteroom.pc" || { echo "in /usr no run path is needed" >&2; exit 1; }
../../scripts/run-readme README.md
