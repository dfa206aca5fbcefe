"""Names of what a served model takes and returns: signatures, inputs, outputs.

The export writes them into the graph; the client, the pages and the checks before publication read
them. A kind of task has its own signature, whose name and additional outputs stand in its file.
"""

FILL_MASK, FILL_MASK_PAIR = "fill_mask", "fill_mask_pair"
NEXT_SENTENCE = "next_sentence"
EMBED, EMBED_TOKENS = "embed", "embed_tokens"
EMBED_DIMENSION, SIMILARITY = "embed_dimension", "similarity"
RERANK = "rerank"
ATTENTION = "attention"
TOKENIZE = "tokenize"
PREDICT_IDS = "predict_ids"
# Names of signatures; `serving.export.signatures.TextModel` says what each one answers.

TEXT, TEXT_PAIR = "text", "text_pair"
# Inputs: string [B]. The inputs of `predict_ids` are the features of `pipeline.schema`.
DIMENSION, N_BEST, PASSAGES = "dimension", "n_best", "passages"
# Inputs: int32 [B]; int32 [B]; string [B, P].

TRUNCATED = "truncated"
TOKENS, PROBABILITIES, POSITIONS = "tokens", "probabilities", "positions"
IS_NEXT_PROBABILITY = "is_next_probability"
VECTOR, VECTORS, POOLED, MEAN = "vector", "vectors", "pooled", "mean"
SCORES = "scores"
ORDER = "order"
# Outputs of the signatures that every encoder has.

LABEL, LABELS = "label", "labels"
SCORE = "score"
WORDS, START, END = "words", "start", "end"
ANSWER, ANSWERS = "answer", "answers"
STARTS, ENDS = "starts", "ends"
# Outputs of the kinds of task.

CODE_POINT, UTF16 = "_code_point", "_utf16"
# Suffixes of starts and ends that count code points or units of UTF-16 instead of bytes.

SEQUENCE_OUTPUT, POOLED_OUTPUT = "sequence_output", "pooled_output"
MASKED_LM_LOGITS, NEXT_SENTENCE_LOGITS = "masked_lm_logits", "next_sentence_logits"
TASK_LOGITS = "task_logits"
# Outputs of the Keras model, and of `predict_ids`.

MAX_PASSAGES = 64
"""Maximum number of passages that `rerank` reads with a query."""

MAX_SPANS = 50
"""Maximum number of spans of a window. The shortest window has more places for starts and ends."""
