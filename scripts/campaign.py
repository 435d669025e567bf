"""Attacks the product: kills, flipped bits, full disks, signals, hostile files, and more.

    python scripts/campaign.py [short|full]               all of it; full tries the mutants, too, and
                                                          notes each campaign in results/reliability.json
    python scripts/campaign.py full --only kill           one campaign
    python scripts/campaign.py full --only kill --case 17 one case, as it was
    python scripts/campaign.py full --only kill --mutants its mutants alone, again, for its record
    python scripts/campaign.py short --only kill --mutant forget-random-state
                                                          a broken product, which the campaign must notice

Exit code 0 if nothing was found, 1 if something was; with --mutant the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from campaigns.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
