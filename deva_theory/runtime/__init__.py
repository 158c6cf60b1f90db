"""What a long run needs besides mathematics: a result cache, progress and provenance."""

from deva_theory.runtime.cache import Cache, CacheWarning, source_hash
from deva_theory.runtime.progress import Progress, Task
from deva_theory.runtime.provenance import provenance

__all__ = ["Cache", "CacheWarning", "Progress", "Task", "provenance", "source_hash"]
