"""A module two packages down, with a generator of its own."""

import numpy as np

rng = np.random.default_rng(72)
