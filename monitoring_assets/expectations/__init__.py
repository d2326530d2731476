"""PSI, CSI and quality as Great Expectations: one expectation a column and kind, over the stored bin counts.

Importing ``suite`` or ``docs`` costs 4 CPU s and more (Great Expectations), so callers import them where they use them.
"""

from __future__ import annotations

import os

# Before Great Expectations is imported anywhere below: a stage must not call home.
os.environ["GX_ANALYTICS_ENABLED"] = "false"
