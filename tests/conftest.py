"""Settings of all tests."""

import os

# tests run side by side: more threads than cores would wait for one another
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# how long an example takes says how busy the machine is, not whether the code is right
settings.register_profile("verglas", deadline=None)
settings.load_profile("verglas")
