"""Lightning by the name that the program imported it by, as its two packages know nothing of each other.

``import lightning as L`` before the first class of this library makes all of them modules, data modules and
callbacks of ``lightning.pytorch``; in any other program they are those of ``pytorch_lightning``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or "lightning.pytorch" not in sys.modules or "pytorch_lightning" in sys.modules:
    import pytorch_lightning as pl
else:
    import lightning.pytorch as pl

__all__ = ["pl"]
