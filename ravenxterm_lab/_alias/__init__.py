"""The seed document's import name; everything lives in ``ravenxterm_lab``."""

from ravenxterm_lab.models import *  # noqa: F403
from ravenxterm_lab.models import __all__ as __all__
