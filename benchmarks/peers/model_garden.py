"""Read a dataset with Model Garden's pretraining data loader; print shapes and hashes as JSON.

Run as `python model_garden.py 'dataset/train-*.tfrecord' 128 20`.
"""

import hashlib
import json
import sys

import numpy as np
from official.nlp.data import pretrain_dataloader


def main(files: str, length: int, predictions: int) -> None:
    """Print the number of records and, for each feature, its shape and a hash of its values."""
    config = pretrain_dataloader.BertPretrainDataConfig(
        input_path=files,
        global_batch_size=1,
        is_training=False,
        drop_remainder=False,
        seq_length=length,
        max_predictions_per_seq=predictions,
    )
    batches = list(pretrain_dataloader.BertPretrainDataLoader(config).load().as_numpy_iterator())
    features = {
        name: np.concatenate([batch[name] for batch in batches]).astype(np.float64)
        for name in sorted(batches[0])
    }
    digests = {
        name: [*values.shape, hashlib.sha256(values.tobytes()).hexdigest()]
        for name, values in features.items()
    }
    print(json.dumps(digests))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
