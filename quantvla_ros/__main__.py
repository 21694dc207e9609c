# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`python -m quantvla_ros COMMAND`."""
import sys

from quantvla_ros.cli.main import main

sys.exit(main())
