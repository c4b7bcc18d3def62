# SPDX-License-Identifier: AGPL-3.0-or-later
"""Generated code of the protocols."""
