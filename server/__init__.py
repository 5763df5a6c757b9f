"""HTTP API, engine, scheduler and streams. The only package that imports the others.

Importing it removes the environment variables of libraries that end a process when their values
are invalid; prometheus_client and rich read them when they are imported.
"""

import os

for _name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir", "TERMINAL_WIDTH"):
    os.environ.pop(_name, None)
