"""poll(), select() and their kin."""
from harness import *
