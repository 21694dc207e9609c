#!/usr/bin/env bash
# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
# Sets up what is missing, then runs the demo: the simulated arm and the policy node as separate
# processes on real topics, three language commands, and demo_out/ with video, pictures and bag.
# Arguments go to `python -m quantvla_ros demo` (see --help).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
. scripts/env.sh
exec python -m quantvla_ros demo "$@"
