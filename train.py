"""``python train.py WORDS`` is ``quantizable train WORDS``: see conf/train.yaml."""

import sys

from quantizable.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
