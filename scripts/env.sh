# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The environment that scripts/setup.sh made: source it in bash, then `python -m quantvla_ros ...`
# and, with the ROS 2 command line installed, `ros2 ...` work.
#
# Discovery stays on this machine and Fast DDS gets the profile for raw images, unless the variables
# ROS_AUTOMATIC_DISCOVERY_RANGE and FASTDDS_DEFAULT_PROFILES_FILE are set already.

_quantvla_enter() {
  local root venv options=$-
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  venv=$root/.venv
  if [ ! -f "$venv/.quantvla_ros.mode" ] || [ ! -f "$root/install/local_setup.bash" ]; then
    echo "env.sh: $root is not set up yet: run scripts/setup.sh first" >&2
    return 1
  fi
  set +u  # neither ROS's nor colcon's files know `set -u`
  # The wheels' start-up hook marks its children; another environment's mark must not reach ours.
  unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
  . "$venv/bin/activate"
  QUANTVLA_ROS_ENV=$(cat "$venv/.quantvla_ros.mode")
  export QUANTVLA_ROS_ENV
  if [ "$QUANTVLA_ROS_ENV" = wheels ]; then
    export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
    export ROS_DISTRO=kilted ROS_VERSION=2 ROS_PYTHON_VERSION=3
    unset COLCON_PREFIX_PATH PYTHONPATH
  fi
  . "$root/install/local_setup.bash"
  if [ "${ROS_DISTRO:-}" = humble ]; then
    export ROS_LOCALHOST_ONLY="${ROS_LOCALHOST_ONLY:-1}"  # Humble knows only this one
  else
    export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
  fi
  case ${ROS_DISTRO:-} in
    humble | iron | jazzy)  # Fast DDS 2 knows only the older name, Fast DDS 3 warns of it
      export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-$root/config/fastdds.xml}"
      ;;
    *)
      export FASTDDS_DEFAULT_PROFILES_FILE="${FASTDDS_DEFAULT_PROFILES_FILE:-$root/config/fastdds.xml}"
      ;;
  esac
  case $options in *u*) set -u ;; esac
}

_quantvla_enter
