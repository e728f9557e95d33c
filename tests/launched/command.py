"""Runs `antiphase train` with CPU processes whose weights FSDP 2 shards.

Usage: command.py WORDS, where WORDS follow `antiphase train`. Tests launch this script with two processes.
"""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
warnings.simplefilter("ignore")

from cpu_shards import use_fsdp2

if __name__ == "__main__":
    use_fsdp2()
    from antiphase.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
