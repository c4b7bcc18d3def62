# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m remora_command``: the command ``remora`` of this Python."""

from . import main

main()
