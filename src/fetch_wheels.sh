#!/bin/sh
# Fills wheels/ so that install.sh needs no package index on the device. Runs on the machine that builds the
# component, which has Python with pip; the build takes the folder along.
#
#     sh src/fetch_wheels.sh                                           every machine and Python below
#     MACHINES=aarch64 LIBCS=glibc PYTHONS=3.11 sh src/fetch_wheels.sh
set -eu

MACHINES=${MACHINES:-x86_64 aarch64}
LIBCS=${LIBCS:-glibc musl}
PYTHONS=${PYTHONS:-3.9 3.10 3.11 3.12 3.13}

cd "$(dirname "$0")/.."
rm -rf wheels.new
fetch() {
    python3 -m pip download -qq --disable-pip-version-check --only-binary :all: -d wheels.new "$@"
}
for python in $PYTHONS; do
    # A device may have no pip; pip's wheel runs as it is. One for the first, the oldest, Python serves all.
    [ -d wheels.new ] || fetch --python-version "$python" --no-deps pip
    for machine in $MACHINES; do
        for libc in $LIBCS; do
            case $libc in
                glibc) platforms="--platform manylinux_2_17_$machine --platform manylinux2014_$machine" ;;
                musl) platforms="--platform musllinux_1_2_$machine --platform musllinux_1_1_$machine" ;;
                *) echo "LIBCS knows glibc and musl, not $libc" >&2 && exit 1 ;;
            esac
            echo "Python $python, $machine, $libc"
            # shellcheck disable=SC2086  # several words
            fetch --python-version "$python" $platforms -r requirements.txt
        done
    done
done
rm -rf wheels
mv wheels.new wheels
du -sh wheels
