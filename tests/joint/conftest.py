"""Makes `joint_laws` importable: test files here are no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
