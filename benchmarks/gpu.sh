#!/usr/bin/env bash
# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
# All that a GPU is needed for, in one call: checks, tiles, times, profiles.
#
#   benchmarks/gpu.sh DIR [STEP...]
#
# DIR gets a log and a result of each step. Steps, all of them without a list, in this order:
#
#   kernels     the kernels' tests on the GPU
#   engines     the engines' and the pictures' tests on the GPU
#   tune        tiles of the published workloads, into DIR/tiles; the steps after it use them
#   warm        compiles what the steps after it run, several workloads at a time
#   bench       the published workloads, with their baselines
#   profile     where the time of each goes
#   ready       from a process to a policy that is ready, the first of the workloads
#   attention   attention and norms against PyTorch's
#   products    int8 products against PyTorch's
#
# A step that fails does not stop the others; the exit status says whether one did. PYTHON: another
# interpreter. STEP_SECONDS: the most that one step takes (default 900). AT_ONCE: processes of
# `warm`, of up to 14 GB on the GPU each (default 5).
set -uo pipefail

if [ $# -eq 0 ]; then
  sed -n '5,/^set/s/^# \{0,1\}//p' "$0"
  exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$1/tiles" && out=$(cd "$1" && pwd)
shift
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(kernels engines tune warm bench profile ready attention products)
python=${PYTHON:-python3}
cd "$root" || exit
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
# Tiles of this call are the user's, for the steps that follow.
export XDG_CACHE_HOME=$out/cache
mkdir -p "$XDG_CACHE_HOME/quantvla_ros"
ln -sfn "$out/tiles" "$XDG_CACHE_HOME/quantvla_ros/tiles"

# model, then bench's arguments; each with a name for its results
workloads=(
  'pi05_3views --model pi05 --views 3 --prompt-tokens 48 --chunk 50'
  'pi05_2views --model pi05 --views 2 --prompt-tokens 20 --chunk 10'
  'groot_2views --model gr00t_n1_5 --views 2 --prompt-tokens 40'
  'smolvla_3views --model smolvla --views 3 --prompt-tokens 48'
)

tests() {
  local workers=()
  "$python" -c 'import xdist' 2>/dev/null && workers=(-n auto)
  "$python" -m pytest -q -p no:cacheprovider "${workers[@]}" "$@"
}

each() {  # COMMAND...: with NAME and ARGS of every workload in place of these words
  local status=0 name arguments word
  for workload in "${workloads[@]}"; do
    read -r name arguments <<<"$workload"
    local command=()
    for word in "$@"; do
      # shellcheck disable=SC2206  # several words
      if [ "$word" = ARGS ]; then command+=($arguments); else command+=("${word//NAME/$name}"); fi
    done
    echo "-- ${command[*]}"
    "${command[@]}" || status=1
  done
  return $status
}

step() {
  case $1 in
    kernels) tests test/test_kernels_{norms,attention,gemm,fused,triton}.py -k 'gpu or cuda' ;;
    engines) tests test/test_engine_{gpu,groot_gpu,smolvla_gpu,policy_gpu,pictures}.py ;;
    tune) each "$python" -m quantvla_ros tune ARGS --precision bf16,w8a8,w4a8 --out "$out/tiles" ;;
    warm)
      local precision
      for workload in "${workloads[@]}"; do
        for precision in bf16 w8a8 w4a8 w8a8-extended; do
          echo "${workload#* } --precision $precision"
        done
      done |
        xargs -P "${AT_ONCE:-5}" -L 1 "$python" benchmarks/profile_engine.py --runs 1 \
          --out /dev/null
      ;;
    bench)
      each "$python" -m quantvla_ros bench ARGS --precision bf16,w8a8,w4a8,w8a8-extended \
        --baselines eager,cudagraph --baseline-precision bf16 --baseline-runs 20 \
        --runs 100 --warm-up 1 \
        --out "$out/bench_NAME.json"
      ;;
    profile) each "$python" benchmarks/profile_engine.py ARGS --out "$out/profile_NAME.json" ;;
    ready)
      local arguments
      read -r _ arguments <<<"${workloads[0]}"
      # shellcheck disable=SC2086  # several words
      "$python" benchmarks/ready.py $arguments --precision bf16,w8a8,w4a8 --out "$out/ready.json"
      ;;
    attention) "$python" benchmarks/attention.py --out "$out/attention.json" ;;
    products) "$python" benchmarks/kernels.py --out "$out/kernels.json" ;;
    *)
      echo "gpu.sh: unknown step '$1'" >&2
      return 2
      ;;
  esac
}

failed=()
for name in "${steps[@]}"; do
  echo "== $name"
  started=$SECONDS
  # A process of its own, so that it can be stopped as a whole.
  export -f step tests each
  export python out
  if ! timeout "${STEP_SECONDS:-900}" bash -c "$(declare -p workloads); step $name" \
    2>&1 | tee "$out/$name.log"; then
    failed+=("$name")
  fi
  echo "== $name took $((SECONDS - started)) s"
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
