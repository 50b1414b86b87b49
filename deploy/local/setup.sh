#!/bin/sh
# setup.sh PYTHON UV_VENV [STAMP [downloads]]: install uv into UV_VENV, and with a STAMP the locked dependencies into .venv, unless STAMP
# is up to date. With `downloads`, Kafka and the schema registry are downloaded at the same time: `up` follows and finds them there.
set -eu
python=$1 uv_venv=$2 stamp=${3:-} downloads=${4:-}
uv_lock=deploy/installer.lock
uv_version=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' "$uv_lock")
[ -t 2 ] && quiet= || quiet=--quiet  # progress is for people

if [ -z "$python" ]; then
    echo "No Python 3.11 or 3.12 (with its venv module) on PATH. Install one, or name it: make PYTHON_BASE=/path/to/python3.12" >&2
    exit 1
fi

if [ -n "$stamp" ]; then
    wanted=$("$python" -c 'import hashlib, sys; print(hashlib.sha256(b"".join(open(f, "rb").read() for f in sys.argv[1:])).hexdigest())' \
        requirements.lock pyproject.toml)
    [ -x .venv/bin/python ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0
fi

if ! "$uv_venv/bin/uv" --version 2>/dev/null | grep -qF " $uv_version"; then
    echo "installing uv $uv_version into $uv_venv"
    mkdir -p "$(dirname "$uv_venv")"
    "$python" -m venv --clear "$uv_venv"
    "$uv_venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement "$uv_lock"
fi
[ -n "$stamp" ] || exit 0

[ -x .venv/bin/python ] || "$uv_venv/bin/uv" venv --quiet --allow-existing --no-python-downloads --python "$python" .venv
if [ -n "$downloads" ]; then
    "$uv_venv/bin/uv" pip install --quiet --python .venv/bin/python --require-hashes --requirement deploy/local/downloads.lock
    echo "downloading Kafka and the schema registry in the background"
    .venv/bin/python -m deploy.local.jars fetch >.cache/downloads.log 2>&1 &  # `up` repeats a failure where it is seen
fi
packages=$(grep -c '^[a-zA-Z0-9]' requirements.lock)
echo "installing up to $packages locked packages into .venv"
if [ -n "$quiet" ]; then
    (
        seconds=0
        while sleep 10; do
            seconds=$((seconds + 10))
            echo "  $seconds s, $(find .venv/lib -maxdepth 3 -name '*.dist-info' | wc -l) of at most $packages packages are there; their code is compiled last"
        done
    ) &
    ticker=$!
    trap 'kill $ticker 2>/dev/null' EXIT
fi
"$uv_venv/bin/uv" pip sync $quiet --python .venv/bin/python --require-hashes --compile-bytecode requirements.lock
"$uv_venv/bin/uv" pip install --quiet --python .venv/bin/python --no-deps --editable .
printf '%s\n' "$wanted" >"$stamp"
