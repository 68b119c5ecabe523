"""Let the tests of this folder import its modules, as record.py does."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
