"""Makes the jobs of single rules misbehave: Python imports this first when it is on PYTHONPATH.

The environment variable FAULTS says how, as JSON by rule: ``{"selection": {"memory": 1500}}`` (MB
taken before the script runs), ``{"rotations": {"sleep": 600}}`` (seconds).
"""

import json
import os
import re
import sys
import time

script = re.search(r"scripts/[^/]*\.(\w+)\.py$", sys.orig_argv[-1])
fault = json.loads(os.environ.get("FAULTS", "{}")).get(script and script[1], {})
if "memory" in fault:
    ballast = b"x" * (fault["memory"] << 20)
    # Where memory is only looked at now and then, the job must live until it is.
    time.sleep(6)
if "sleep" in fault:
    time.sleep(fault["sleep"])
