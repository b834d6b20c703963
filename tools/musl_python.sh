#!/usr/bin/env bash
# A CPython on musl from Debian's sources, as Alpine's images have one: tools/musl_python.sh [FOLDER], once; half an hour on two busy cores.
# Needs apt-get, gcc, musl-gcc (Debian's musl-tools) and make; no root. Without FOLDER it is kept where the other programs are.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=bookworm minor=3.11
prefix=$(realpath -m "${1:-${VIBEVOICE_OTEL_CACHE:-$HOME/.cache/vibevoice-otel}/musl-python$minor}")
[ ! -x "$prefix/bin/python$minor" ] || { echo "musl-python: ready in $prefix"; exit 0; }
for program in apt-get gcc musl-gcc make perl; do
    command -v "$program" >/dev/null || { echo "musl-python: $program is missing (Debian: apt-get install build-essential musl-tools)" >&2; exit 1; }
done
mirror=$(python3 -c 'from tools.containers.images import MIRROR; print(MIRROR)')
work=$prefix.part began=$SECONDS  # stays where a step fails; the next run goes on from there
mkdir -p "$work"
step() {  # name, command ...
    local name=$1
    shift
    [ ! -e "$work/$name.done" ] || return 0
    echo "musl-python: $name ($((SECONDS - began)) s)"
    set +e  # so that a failure inside is seen: in a condition bash would go on
    (set -e; "$@") >"$work/log" 2>&1
    local code=$?
    set -e
    [ $code = 0 ] || { tail -30 "$work/log" >&2; exit 1; }
    touch "$work/$name.done"
}

sources() {  # by an apt of its own: the machine's lists stay as they are
    mkdir -p lists/partial
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >sources.list
    local apt=(apt-get -o "Dir::Etc::SourceList=$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$PWD/lists"
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=)
    "${apt[@]}" update
    "${apt[@]}" source --download-only "python$minor" zlib openssl libffi
    for each in *.orig.tar.*z*; do [[ $each == *.asc ]] || tar xf "$each"; done
}

# The kernel's headers belong to no libc; the rest of the machine's stay out. musl-gcc calls glibc's triplet its own, which
# CPython's configure takes for an error: as on Alpine, it names none.
compiler() {
    mkdir -p headers
    ln -sfn /usr/include/linux /usr/include/asm-generic "/usr/include/$(gcc -print-multiarch)/asm" headers/
    printf '#!/bin/sh\n[ "$1" = --print-multiarch ] || exec musl-gcc "$@"\n' >cc
    chmod +x cc
}

# Only what ssl and hashlib ask for, without the programs.
openssl() {
    local without=(aria bf camellia cast cmp cms ec2m idea md4 mdc2 rc2 rc4 seed sm2 sm3 sm4 srp ts whirlpool
        legacy engine async tests module shared)
    cd openssl-*/
    ./Configure "linux-$(uname -m)" "${without[@]/#/no-}" --prefix="$work/libraries" --libdir=lib
    make -j"$(nproc)" build_libs
    make install_dev
}

library() {  # folder, configure's arguments
    cd "$1"
    shift
    ./configure --prefix="$work/libraries" "$@"
    make -j"$(nproc)" install
}

python() {
    cd Python-*/
    sed -i 's/^    def add_multiarch_paths(self):/&\n        return  # they are glibc'"'"'s/' setup.py
    PKG_CONFIG_LIBDIR=$work/libraries/lib/pkgconfig ./configure --prefix="$prefix" --with-openssl="$work/libraries" \
        --disable-test-modules --without-ensurepip
    make -j"$(nproc)"
    make install DESTDIR="$work/out"
}

cd "$work"
export CC="$work/cc" CFLAGS="-O1 -fPIC -I$work/headers -I$work/libraries/include" LDFLAGS="-L$work/libraries/lib"
step sources sources
step compiler compiler
step zlib library zlib-* --static
step libffi library libffi-* --disable-shared
step openssl openssl
step python python
"$work/out$prefix/bin/python$minor" -c 'import ctypes, hashlib, ssl, sysconfig, zlib
assert "musl" in sysconfig.get_config_var("EXT_SUFFIX")'
mv "$work/out$prefix" "$prefix"
rm -rf "$work"
echo "musl-python: ready in $prefix after $((SECONDS - began)) s"
