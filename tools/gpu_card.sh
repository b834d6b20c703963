#!/usr/bin/env bash
# Everything that needs a CUDA device, in one run of about seven minutes: tools/gpu_card.sh [FOLDER]
# The results go to FOLDER, else to $OUT, else to out/gpu. PYTHON names the interpreter (python3). Needs no network and no history.
# What fails does not stop the rest; the exit code says whether all of it went well.
set -u
cd "$(dirname "$0")/.."
out=${1:-${OUT:-out/gpu}}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
failed=0
run() {  # seconds, name, command ...
    local seconds=$1 name=$2 began=$SECONDS
    shift 2
    timeout "$seconds" "$@" 2>&1 | tee "$out/$name.log"
    local code=${PIPESTATUS[0]}
    echo "$name: exit code $code after $((SECONDS - began)) s" | tee -a "$out/summary.txt"
    [ "$code" = 0 ] || failed=1
}
: >"$out/summary.txt"
run 220 card "$python" -m benchmarks.card --out "$out"
run 140 tests "$python" -m pytest tests/gpu -q -rA --durations=0 -p no:cacheprovider
# shellcheck disable=SC2086
run 210 gpu "$python" -m benchmarks.gpu --out "$out" ${ARGS:---frames 8 --rounds 3}
cat "$out/summary.txt"
exit $failed
