"""`python -m fairlead.bench JOB.json RESULT.json`: one measurement in a process of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from fairlead.bench.measure import Job, measure

if __name__ == "__main__":
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(asdict(measure(job))), encoding="utf-8")
