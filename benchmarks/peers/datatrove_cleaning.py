"""datatrove's pipeline of rules and near-duplicates, in one process.

    python datatrove_cleaning.py corpus.jsonl output

Redaction, Gopher's, C4's and FineWeb's rules, and MinHash with 14 bands of 8, as its
`fineweb.py` example has them; the language filter is left out, because it downloads its model. The
documents that are left are written as JSON Lines. The script is self-contained, for an environment
with only datatrove.
"""

import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter


def main(corpus: str, output: str) -> None:
    """Run the four stages one after another."""
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    corpus_folder, file = str(Path(corpus).parent), Path(corpus).name
    kept, left = f"{output}/kept", f"{output}/left"
    signatures, buckets, removed = (f"{output}/{name}" for name in ("sig", "buckets", "remove"))
    stages = [
        [
            JsonlReader(corpus_folder, glob_pattern=file),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(),
            FineWebQualityFilter(char_duplicates_ratio=0.1),
            PIIFormatter(),
            JsonlWriter(kept, compression=None),
        ],
        [JsonlReader(kept), MinhashDedupSignature(signatures, config=config)],
        [MinhashDedupBuckets(signatures, buckets, config=config)],
        [MinhashDedupCluster(buckets, removed, config=config)],
        [JsonlReader(kept), MinhashDedupFilter(removed), JsonlWriter(left, compression=None)],
    ]
    for number, stage in enumerate(stages):
        tasks = config.num_buckets if number == 2 else 1
        log = f"{output}/logs/{number}"
        LocalPipelineExecutor(stage, tasks=tasks, workers=1, logging_dir=log).run()
    count = sum(len(path.read_text().splitlines()) for path in Path(left).glob("*.jsonl"))
    print(f"{count} documents left")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
