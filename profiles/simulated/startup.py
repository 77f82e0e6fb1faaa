"""What `montango shell` runs: it fills the session's namespace.

Also usable on its own, with a laboratory up: ``ipython -i -m profiles.simulated.startup``.
"""

from __future__ import annotations

from montango.namespace import session_namespace
from profiles.simulated.devices import make_devices

globals().update(session_namespace(make_devices))
