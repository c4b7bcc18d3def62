# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m remora``: the command ``remora`` of this Python."""

from remora_command import main

main()
