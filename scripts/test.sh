#!/usr/bin/env bash
# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
# Sets up what is missing, then tests, the fast things first:
#
#   scripts/test.sh                    everything: lint, unit, ros
#   scripts/test.sh lint               ruff, mypy, import direction
#   scripts/test.sh unit [ARGS...]     tests without ROS processes, test/attacks among them; ARGS go
#                                      to pytest
#   scripts/test.sh ros [ARGS...]      test/ros: each file in a process and a ROS domain of its own;
#                                      ARGS that are files choose them, others go to pytest
#
# The last line is 'N passed, N failed[, N skipped]'; a lint step that complains counts as failed.
# QUANTVLA_ROS_TEST_TIMEOUT: seconds for one file of test/ros (default 300).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
case ${1:-all} in
  all | lint | unit | ros) stage=${1:-all} ;;
  *)
    echo "test.sh: unknown stage '$1': expected lint, unit, ros, or nothing for all of them" >&2
    exit 2
    ;;
esac
shift || true

scripts/setup.sh --test
. scripts/env.sh
if [ -f build/lookalikes/install/local_setup.bash ]; then
  set +u  # colcon's files do not know `set -u`
  . build/lookalikes/install/local_setup.bash
  set -u
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export ROS_LOG_DIR=$work/ros_log
results=$work/results
mkdir "$results"
failures=()

step() {  # NAME COMMAND...: a lint step
  echo "== $1"
  if "${@:2}"; then
    echo "${*:2}" >"$results/ok.$1"
  else
    failures+=("$1")
  fi
}

lint() {
  step ruff ruff check .
  # All that needs no ROS: rclpy carries no types.
  step mypy mypy quantvla_ros/{errors.py,contract,observation,control,kernels,models} \
    quantvla_ros/{quantization,engine,inspection,bench,sim,report}
  step imports python scripts/check_imports.py
}

run_pytest() {  # NAME ARGS...
  local name=$1 status=0
  shift
  "${prefix[@]}" python -m pytest -q --junitxml "$results/$name.xml" "$@" || status=$?
  case $status in
    0) ;;
    5) [ -f "$results/$name.xml" ] ;;  # no test selected: nothing failed
    *) failures+=("$name") ;;
  esac
}

unit() {
  echo '== unit'
  # One thread: the tests' networks are tiny, and with both cores busy a second thread makes them wait
  # ten times as long as they compute.
  prefix=(env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}")
  run_pytest unit --ignore test/ros "$@"
}

# The next domain that no other test on this machine uses, held by a lock until the one after it is
# chosen. Domains 1 to 100 stay below the ports that the system hands out itself.
domain=$(($$ % 100))
choose_domain() {
  local tries
  for ((tries = 0; tries < 100; tries++)); do
    domain=$((domain % 100 + 1))
    exec 8>"${TMPDIR:-/tmp}/quantvla_ros_domain_$domain.lock"
    if flock --nonblock 8; then
      export ROS_DOMAIN_ID=$domain
      return
    fi
  done
  echo 'test.sh: all ROS domains from 1 to 100 are in use by other tests' >&2
  exit 1
}

ros() {
  local files=() arguments=() argument file
  for argument in "$@"; do
    if [ -f "${argument%%::*}" ]; then files+=("$argument"); else arguments+=("$argument"); fi
  done
  if [ ${#files[@]} -eq 0 ]; then mapfile -t files < <(find test/ros -name 'test_*.py' | sort); fi
  export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
  prefix=(timeout -k 10 "${QUANTVLA_ROS_TEST_TIMEOUT:-300}")
  for file in "${files[@]}"; do
    choose_domain
    echo "== $file (ROS_DOMAIN_ID $ROS_DOMAIN_ID)"
    run_pytest "ros.$(basename "${file%%::*}" .py)" "$file" "${arguments[@]}"
  done
}

case $stage in
  all)
    lint
    unit "$@"
    ros "$@"
    ;;
  *) "$stage" "$@" ;;
esac

if [ ${#failures[@]} -gt 0 ]; then echo "failed: ${failures[*]}"; fi
status=0
python scripts/sum_results.py "$results" "${failures[@]}" || status=$?
exit $status
