# /// script
# requires-python = "==3.11.*"
# dependencies = ["bert-tensorflow==1.0.4", "six", "tensorflow-cpu==2.15.1"]
# ///
"""Write `google/`: small models as google-research/bert saves them, and what they compute.

Its own code builds them, takes one training step, so that the optimizer's slots are there too, and
saves them. PyPI's `bert-tensorflow` is that code; of `tf.contrib`, which is no more, it needs the
layer normalization. The project's tests need only the files:

    uv run tests/golden/make_google_golden.py
"""

import json
import multiprocessing
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np

FOLDER = Path(__file__).parent / "google"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "Cat", "dog", "sat", "##s", "."]
CONFIG = {
    "attention_probs_dropout_prob": 0.0,
    "directionality": "bidi",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 12,
    "initializer_range": 0.3,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "pooler_fc_size": 768,
    "type_vocab_size": 4,
    "vocab_size": len(PIECES),
}
BATCH = {
    "input_ids": [[2, 7, 9, 3, 5, 8, 10, 3], [2, 6, 8, 11, 3, 0, 0, 0]],
    "input_mask": [[1] * 8, [1, 1, 1, 1, 1, 0, 0, 0]],
    "segment_ids": [[0, 0, 0, 0, 1, 1, 1, 1], [0] * 8],
}
POSITIONS = [[1, 6, 0], [2, 3, 4]]


def layer_norm(inputs, begin_norm_axis, begin_params_axis, scope):
    """Stand in for `tf.contrib.layers.layer_norm`, with its names and its epsilon."""
    import tensorflow.compat.v1 as tf

    del begin_norm_axis, begin_params_axis  # both the last
    with tf.variable_scope(scope, default_name="LayerNorm"):
        size = [inputs.shape[-1]]
        # Random: zeros and ones could be exchanged without notice.
        beta = tf.get_variable("beta", size, initializer=tf.random_normal_initializer(0, 0.3))
        gamma = tf.get_variable("gamma", size, initializer=tf.random_normal_initializer(1, 0.3))
    mean, variance = tf.nn.moments(inputs, [-1], keepdims=True)
    return tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, 1e-12)


def build(kind, tf):
    """Return a model's outputs by name, and a loss."""
    from bert import modeling

    config = modeling.BertConfig.from_dict(CONFIG)
    ids, mask, segments = (tf.constant(BATCH[name], tf.int32) for name in BATCH)
    if kind == "pretraining":
        from bert import run_pretraining

        model = modeling.BertModel(config, False, ids, mask, segments)
        labels = tf.constant(POSITIONS)
        masked_loss, _, masked_lm = run_pretraining.get_masked_lm_output(
            config,
            model.get_sequence_output(),
            model.get_embedding_table(),
            labels,
            labels,
            tf.ones([6]),
        )
        next_loss, _, next_sentence = run_pretraining.get_next_sentence_output(
            config, model.get_pooled_output(), tf.constant([[0], [1]])
        )
        return masked_loss + next_loss, {
            "sequence_output": model.get_sequence_output(),
            "pooled_output": model.get_pooled_output(),
            "masked_lm_log_probabilities": tf.reshape(masked_lm, [2, 3, -1]),
            "next_sentence_log_probabilities": next_sentence,
        }
    if kind == "single":
        from bert import run_classifier

        labels = tf.constant([2, 0])
        loss, _, logits, _ = run_classifier.create_model(
            config, False, ids, mask, segments, labels, 3, False
        )
        return loss, {"task_logits": logits}
    from bert import run_squad

    logits = run_squad.create_model(config, False, ids, mask, segments, False)
    return tf.reduce_sum(logits[0]) - tf.reduce_sum(logits[1]), {
        "task_logits": tf.stack(logits, -1)
    }


def make(kind):
    """Save one model, and return its answers. Each has a process: their flags have equal names."""
    import tensorflow.compat.v1 as tf

    sys.modules["tensorflow.contrib"] = ModuleType("contrib")
    sys.modules["tensorflow.contrib"].layers = ModuleType("layers")
    sys.modules["tensorflow.contrib"].layers.layer_norm = layer_norm
    tf.disable_v2_behavior()
    tf.set_random_seed(7)
    from bert import optimization

    loss, outputs = build(kind, tf)
    step = optimization.create_optimizer(loss, 0.1, 10, 0, use_tpu=False)
    folder = FOLDER / kind
    folder.mkdir(parents=True)
    (folder / "bert_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(step)
        tf.train.Saver().save(session, str(folder / "model.ckpt"), 1, write_meta_graph=False)
        (folder / "checkpoint").unlink()  # it names this machine's folders
        return {f"{kind}/{name}": values for name, values in session.run(outputs).items()}


def main():
    """Write the files."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    made_with = [f"{name} {version(name)}" for name in ("bert-tensorflow", "tensorflow-cpu")]
    golden = {f"input/{name}": np.array(values) for name, values in BATCH.items()}
    golden["input/masked_lm_positions"] = np.array(POSITIONS)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for answers in pool.map(make, ("pretraining", "single", "span"), chunksize=1):
            golden |= answers
    np.savez_compressed(FOLDER / "outputs.npz", **golden, made_with=np.array(made_with))


if __name__ == "__main__":
    main()
