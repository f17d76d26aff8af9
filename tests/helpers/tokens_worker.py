"""One of several processes that tokenise a file together, and prints the blocks that it wrote.

Arguments: port, processes, index, the file, the folder of the tokenizer, the folder of the cache.
"""

import sys
from pathlib import Path

import several

from kd_jax.data.text import folder_tokenizer, records, tokenised


def main(port: str, count: str, index: str, file: str, tokenizer: str, root: str) -> None:
    several.join(port, count, index)
    tokenised.BLOCK, tokenised.PAUSE = 4, 0.01
    write, written = tokenised.write_block, []

    def noting(block, number, *more):
        written.append(number)
        return write(block, number, *more)

    tokenised.write_block = noting
    made = tokenised.tokenised([Path(file)], folder_tokenizer.read(tokenizer), records.Rule(), Path(root))
    print("blocks", *written, "rows", len(made))


if __name__ == "__main__":
    main(*sys.argv[1:])
