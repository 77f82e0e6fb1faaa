"""What ``montango shell --profile PACKAGE`` runs: put the site's own plans and aliases here."""

from __future__ import annotations

from montango.namespace import session_namespace
from profiles.site_template.devices import make_devices

globals().update(session_namespace(make_devices))
