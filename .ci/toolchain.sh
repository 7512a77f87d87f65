# Finds Rust, Python and a C compiler, and makes the Python environment. Sourced by the scripts behind
# `make`; it leaves the shell in the project's directory.
#
#   AASM_TARGET   cargo's target directory
#   VENV          the Python environment, `.venv` of the project
#   QUIET         what builds are told

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=$PWD/.venv

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then BOLD=$'\e[1m' PLAIN=$'\e[0m'; else BOLD='' PLAIN=''; fi

# Builds say nothing for minutes in a log and show their progress to a person.
if [ -t 2 ]; then QUIET=() ; else QUIET=(--quiet); fi

heading() { printf '\n%s== %s ==%s\n' "$BOLD" "$*" "$PLAIN"; }
say() { printf '   %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

install_debian() {
    command -v apt-get >/dev/null || die "install the equivalent of the Debian packages: $*"
    local root=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || die "packages are missing; run: sudo apt-get install $*"
        root=(sudo -n)
    fi
    say "installing Debian packages: $*"
    "${root[@]}" apt-get update -qq
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        >/dev/null
}

find_compiler() {
    command -v cc >/dev/null || install_debian gcc libc6-dev
}

# A rustup proxy looks for its toolchains below $HOME. Under another HOME than it was installed with it
# finds none, although the ones beside it are fine.
find_rust() {
    local proxy
    proxy=$(command -v cargo) ||
        die "cargo is not on PATH; install the Rust toolchain (1.90 or later) from https://rustup.rs"
    if ! cargo --version >/dev/null 2>&1; then
        local beside="${proxy%/.cargo/bin/cargo}/.rustup"
        if [ "${proxy%/.cargo/bin/cargo}" != "$proxy" ] && [ -d "$beside" ] &&
            RUSTUP_HOME=$beside cargo --version >/dev/null 2>&1; then
            export RUSTUP_HOME=$beside
            say "HOME=$HOME has no Rust toolchain; using RUSTUP_HOME=$beside"
        else
            cargo --version >&2 || true
            die "$proxy does not run under HOME=$HOME (its own words above); set RUSTUP_HOME to where the toolchains are"
        fi
    fi
    AASM_TARGET=$(cargo metadata --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
    [ -n "$AASM_TARGET" ] || die "cargo metadata names no target directory"
}

find_python() {
    local candidate recent=''
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 /usr/bin/python3}; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        recent=$candidate
        "$candidate" -c 'import ensurepip, venv' 2>/dev/null || continue
        PYTHON=$candidate
        return
    done
    [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not Python 3.11 or later with the venv module"
    if [ -n "$recent" ]; then install_debian python3-venv; else install_debian python3 python3-venv; fi
    PYTHON=/usr/bin/python3
    "$PYTHON" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "Python 3.11 or later is needed; name one in PYTHON"
}

# Every package is pinned by version and hash, so the stamp of the list is the stamp of the environment.
make_venv() {
    local wanted=sdk-bindings/python/requirements-test.txt stamp=$VENV/requirements.stamp
    if cmp -s "$wanted" "$stamp" && "$VENV/bin/python" -c '' 2>/dev/null; then
        return
    fi
    find_python
    say "making the Python environment .venv ($("$PYTHON" --version); the first time downloads about 60 MB)"
    "$PYTHON" -m venv --clear "$VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        --require-hashes -r "$wanted"
    cp "$wanted" "$stamp"
}

# install_sdk PROFILE: builds the SDK's wheel and installs it, as `pip install agent-assembly` would.
install_sdk() {
    local out=$AASM_TARGET/wheels/$1
    rm -rf "$out"
    "$VENV/bin/maturin" build "${QUIET[@]}" --locked --profile "$1" --auditwheel skip \
        --interpreter "$VENV/bin/python" --manifest-path sdk-bindings/python/Cargo.toml --out "$out"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-index --no-deps \
        --force-reinstall "$out"/*.whl
    say "installed $(basename "$out"/*.whl) into .venv"
}
