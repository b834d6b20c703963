#!/usr/bin/env bash
# Everything that needs a CUDA device, in one run of about nine minutes: tools/gpu_card.sh [FOLDER [PART ...]]
# The results go to FOLDER, else to $OUT, else to out/gpu. PYTHON names the interpreter (python3). Needs no network and no history.
# PARTS are those of benchmarks.card (limit, sample, nvml, processes, cost), tests and gpu; without any all of them are run.
# What fails does not stop the rest; the exit code says whether all of it went well.
set -u
cd "$(dirname "$0")/.."
out=${1:-${OUT:-out/gpu}}
shift $(($# > 0))
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
card=() tests='' gpu=''
for part in "${@:-all}"; do
    case $part in
        all) card=(limit sample nvml processes cost) tests=1 gpu=1 ;;
        tests) tests=1 ;;
        gpu) gpu=1 ;;
        *) card+=("$part") ;;
    esac
done
: >"$out/summary.txt"
# shellcheck disable=SC2086
[ ${#card[@]} = 0 ] || run 280 card "$python" -m benchmarks.card --out "$out" ${CARD_ARGS:---frames 6} "${card[@]}"
[ -z "$tests" ] || run 140 tests "$python" -m pytest tests/gpu -q -rA --durations=0 -p no:cacheprovider
# shellcheck disable=SC2086
[ -z "$gpu" ] || run 210 gpu "$python" -m benchmarks.gpu --out "$out" ${ARGS:---frames 8 --rounds 3}
cat "$out/summary.txt"
exit $failed
