"""Functional Keras models: the encoder, and the encoder with its heads.

Shapes: B batch, L positions, P masked positions, H hidden size, N heads, V vocabulary size, C
outputs of a task.

Architecture: Devlin et al. 2018, https://arxiv.org/abs/1810.04805.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import keras_hub
import tensorflow as tf

from model import served
from model.bert.config import BertConfig
from model.bert.layers import (
    Dropout,
    EncoderLayer,
    LayerNorm,
    MaskedLMHead,
    SplitPositions,
    TokenEmbedding,
    WithAttentionScores,
    attention_mask,
    gelu_tanh,
)
from model.tasks.task_kind import Task
from pipeline import schema
from pipeline.storage.strict_json import JsonObject

_ACTIVATIONS: dict[str, str | Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": "gelu",  # Keras's default is the exact form
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": "relu",
}

Variables: TypeAlias = dict[str, tf.Variable]
"""Weights of a model by their Keras path."""

Intermediates: TypeAlias = dict[str, tf.Tensor | list[tf.Tensor]]
"""Outputs of `with_intermediates` by name; lists have an entry per layer."""

LAYER = "transformer_layer_"
"""Start of the name of a Transformer layer; its index, from 0, follows."""

TASK_HEAD = "task"
"""Name of the head's layer in a fine-tuned model."""

POSITIONS = "positions"
"""Name of the additional input of `at_positions`."""

SLOTS = "masked_lm_slots"
"""Name of the additional input of `PretrainingVariants.at_slots`."""


def _initializer(config: BertConfig) -> keras.initializers.Initializer:
    """Return a new initializer: weights that share one would start with equal values."""
    return keras.initializers.TruncatedNormal(stddev=config.initializer_range)


def _dense(config: BertConfig, units: int, name: str, activation: Any = None) -> Any:
    initializer = _initializer(config)
    return keras.layers.Dense(units, activation, kernel_initializer=initializer, name=name)


def _encoder_inputs(*more: str) -> dict[str, keras.KerasTensor]:
    """Return symbolic inputs for the encoder, and more of these names: int32 [B, L] each."""
    names = (*schema.ENCODER_INPUTS, *more)
    return {name: keras.Input((None,), dtype="int32", name=name) for name in names}


def _embed(config: BertConfig, token_embedding: Any, input_ids: Any, segment_ids: Any) -> Any:
    """Return the normalized sum of token, position and segment embeddings: float32 [B, L, H]."""
    tokens = token_embedding(input_ids)
    positions = keras_hub.layers.PositionEmbedding(
        config.max_position_embeddings,
        _initializer(config),
        dtype="float32",
        name="position_embedding",
    )(tokens)
    segments = keras.layers.Embedding(
        config.type_vocab_size,
        config.hidden_size,
        _initializer(config),
        dtype="float32",
        name="segment_embedding",
    )(segment_ids)
    x = keras.layers.Add(dtype="float32", name="embeddings_add")((tokens, positions, segments))
    norm = LayerNorm(epsilon=config.layer_norm_eps, dtype="float32", name="embeddings_layer_norm")
    return Dropout(config.hidden_dropout_prob, dtype="float32", name="embeddings_dropout")(norm(x))


def _encoder_layer(config: BertConfig, index: int) -> keras.layers.Layer:
    return EncoderLayer(
        intermediate_dim=config.intermediate_size,
        num_heads=config.num_attention_heads,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        activation=_ACTIVATIONS[config.hidden_act],
        layer_norm_epsilon=config.layer_norm_eps,
        kernel_initializer=_initializer(config),
        name=f"{LAYER}{index}",
    )


def build_encoder(config: BertConfig) -> keras.Model:
    """Return the encoder.

    Inputs, by name:
        input_ids: int32 [B, L]. Pieces.
        input_mask: int32 [B, L]. 1 = real piece, 0 = padding.
        segment_ids: int32 [B, L]. 0 = first segment and padding, 1 = second segment.

    Outputs, by name:
        sequence_output: float [B, L, H]. A vector for every position.
        pooled_output: float [B, H]. tanh of a dense layer on the first position's vector.
    """
    inputs = _encoder_inputs()
    token_embedding = TokenEmbedding(
        config.vocab_size,
        config.hidden_size,
        embeddings_initializer=_initializer(config),
        dtype="float32",
        name="token_embedding",
    )
    x = _embed(config, token_embedding, inputs[schema.INPUT_IDS], inputs[schema.SEGMENT_IDS])
    for index in range(config.num_hidden_layers):
        x = _encoder_layer(config, index)(x, padding_mask=inputs[schema.INPUT_MASK])
    pooled = _dense(config, config.hidden_size, "pooled_dense", "tanh")(x[:, 0, :])
    outputs = {served.SEQUENCE_OUTPUT: x, served.POOLED_OUTPUT: pooled}
    return keras.Model(inputs, outputs, name="encoder")


def with_intermediates(encoder: keras.Model) -> keras.Model:
    """Return a model that shares an encoder's layers and also outputs intermediate results.

    Outputs, by name: the encoder's, and
        hidden_states: a list of float [B, L, H]. The embeddings, then each layer's output.
        attention_scores: a list of float [B, N, L, L], one per layer. Attention weights; the last
            axis is the keys' position.
    """
    x = encoder.get_layer("embeddings_dropout").output
    hidden_states, attention_scores = [x], []
    for layer in encoder.layers:
        if isinstance(layer, EncoderLayer):
            padding_mask = encoder.input[schema.INPUT_MASK]
            x, scores = WithAttentionScores(layer)(x, padding_mask)
            hidden_states.append(x)
            attention_scores.append(scores)
    outputs = {
        served.SEQUENCE_OUTPUT: x,
        served.POOLED_OUTPUT: encoder.get_layer("pooled_dense")(x[:, 0, :]),
        "hidden_states": hidden_states,
        "attention_scores": attention_scores,
    }
    return keras.Model(encoder.input, outputs, name="encoder_with_intermediates")


def encoder_layers(encoder: keras.Model) -> list[EncoderLayer]:
    """Return an encoder's Transformer layers, from below."""
    return [layer for layer in encoder.layers if isinstance(layer, EncoderLayer)]


def inputs_of_layer(encoder: keras.Model, index: int, *, packed: bool = False) -> keras.Model:
    """Return a model of an encoder's embeddings and its layers below one layer.

    Inputs, by name: the encoder's, and for packed records
        position_ids: int32 [B, L]. Position of each piece in its pair, from 0.

    Outputs, by name:
        layer_inputs: float [B, L, H]. What the layer `index`, from 0, reads.
    """
    inputs, x = _below(encoder, index, packed=packed)
    return keras.Model(inputs, {"layer_inputs": x}, name="below_layer")


def _below(encoder: keras.Model, index: int, *, packed: bool) -> tuple[dict[str, Any], Any]:
    """Return symbolic inputs of an encoder, by name, and what its layer `index` reads of them."""
    layers = encoder_layers(encoder)
    if not packed:
        below = layers[index - 1] if index else encoder.get_layer("embeddings_dropout")
        return encoder.input, below.output
    inputs = _encoder_inputs(schema.POSITION_IDS)
    tokens = encoder.get_layer("token_embedding")(inputs[schema.INPUT_IDS])
    x = _embedded(encoder, tokens, inputs[schema.SEGMENT_IDS], inputs[schema.POSITION_IDS])
    x = encoder.get_layer("embeddings_dropout")(x)
    mask = attention_mask(inputs[schema.INPUT_MASK], inputs[schema.POSITION_IDS])
    for layer in layers[:index]:
        x = layer(x, padding_mask=mask)
    return inputs, x


def _embedded(
    encoder: keras.Model, token_vectors: Any, segment_ids: Any, position_ids: Any = None
) -> Any:
    """Apply an encoder's embeddings to token vectors [B, L, H], without dropout."""
    positions = encoder.get_layer("position_embedding")(token_vectors, positions=position_ids)
    segments = encoder.get_layer("segment_embedding")(segment_ids)
    x = encoder.get_layer("embeddings_add")((token_vectors, positions, segments))
    return encoder.get_layer("embeddings_layer_norm")(x)


def at_positions(encoder: keras.Model) -> keras.Model:
    """Return a model that shares an encoder's layers; the last one computes only some positions.

    Pretraining needs no others, and computing the last layer's feed-forward block at all positions
    would take an eighth of a step of size mini.

    Inputs, by name: the encoder's, and
        positions: int32 [B, P].

    Outputs, by name:
        sequence_output: float [B, P, H]. The encoder's, at those positions.
        pooled_output: float [B, H].
        last_inputs: float [B, L, H]. Inputs of the last layer, at all positions.
    """
    positions = keras.Input((None,), dtype="int32", name=POSITIONS)
    first = keras.ops.zeros_like(positions[:, :1])  # position 0, [CLS], for the pooled output
    *layers, last = encoder_layers(encoder)
    inputs, last_inputs = _below(encoder, len(layers), packed=False)
    x = last(
        last_inputs,
        padding_mask=inputs[schema.INPUT_MASK],
        positions=keras.ops.concatenate([first, positions], axis=1),
    )
    outputs = {
        served.SEQUENCE_OUTPUT: x[:, 1:, :],
        served.POOLED_OUTPUT: encoder.get_layer("pooled_dense")(x[:, 0, :]),
        "last_inputs": last_inputs,
    }
    return keras.Model({**inputs, POSITIONS: positions}, outputs, name="encoder_at_positions")


def at_packed_positions(encoder: keras.Model) -> keras.Model:
    """Return what `at_positions` does, for packed records of up to K pairs.

    Inputs, by name: the encoder's, and
        position_ids: int32 [B, L]. Position of each piece in its pair, from 0.
        next_sentence_positions: int32 [B, K]. Index of each pair's [CLS].
        positions: int32 [B, P].

    Outputs, by name: those of `at_positions`, but
        pooled_output: float [B, K, H].
    """
    *layers, last = encoder_layers(encoder)
    inputs, last_inputs = _below(encoder, len(layers), packed=True)
    positions = keras.Input((None,), dtype="int32", name=POSITIONS)
    first = keras.Input((None,), dtype="int32", name=schema.NEXT_SENTENCE_POSITIONS)
    asking = keras.ops.concatenate([first, positions], axis=1)
    mask = attention_mask(inputs[schema.INPUT_MASK], inputs[schema.POSITION_IDS], asking)
    x = last(last_inputs, padding_mask=mask, positions=asking)
    at_first, at_positions = SplitPositions()(x, first)
    outputs = {
        served.SEQUENCE_OUTPUT: at_positions,
        served.POOLED_OUTPUT: encoder.get_layer("pooled_dense")(at_first),
        "last_inputs": last_inputs,
    }
    inputs |= {schema.NEXT_SENTENCE_POSITIONS: first, POSITIONS: positions}
    return keras.Model(inputs, outputs, name="encoder_at_packed_positions")


def from_token_vectors(encoder: keras.Model) -> keras.Model:
    """Return a model that shares an encoder's layers and takes vectors instead of piece ids.

    Inputs, by name: the encoder's except `input_ids`, and
        token_vectors: float32 [B, L, H]. Outputs of the token embedding, or any other vectors.

    Outputs, by name: the encoder's.
    """
    size = encoder.get_layer("token_embedding").output.shape[-1]
    inputs = {name: encoder.input[name] for name in (schema.INPUT_MASK, schema.SEGMENT_IDS)}
    inputs["token_vectors"] = tokens = keras.Input((None, size), name="token_vectors")
    x = _embedded(encoder, tokens, inputs[schema.SEGMENT_IDS])
    for layer in encoder.layers:
        if isinstance(layer, EncoderLayer):
            x = layer(x, padding_mask=inputs[schema.INPUT_MASK])
    pooled = encoder.get_layer("pooled_dense")(x[:, 0, :])
    outputs = {served.SEQUENCE_OUTPUT: x, served.POOLED_OUTPUT: pooled}
    return keras.Model(inputs, outputs, name="encoder_from_token_vectors")


@dataclass(frozen=True)
class PretrainingVariants:
    """Pretraining models of the same layers, which differ in their inputs and outputs.

    Attributes:
        whole: see `build_pretraining_model`.
        at_slots: variant of `whole` with an additional input masked_lm_slots int32 [S], flat
            indices into the B·P slots of masked_lm_positions; its masked_lm_logits are
            [S, V]. Training passes only slots that hold a prediction, since the output matrix makes
            each slot expensive.
        for_students, for_students_at_slots: the same two models with another output, last_inputs
            float [B, L, H]: the inputs of the encoder's last layer.
    """

    whole: keras.Model
    at_slots: keras.Model
    for_students: keras.Model
    for_students_at_slots: keras.Model

    @classmethod
    def of(
        cls, encoder_part: keras.Model, masked_lm_head: Any, next_sentence: Any
    ) -> "PretrainingVariants":
        """Return the models of an encoder and its heads.

        Args:
            encoder_part: a model such as `at_positions`.
            masked_lm_head: the layer of the masked-LM head.
            next_sentence: the layer of the next-sentence head.
        """
        renamed = {POSITIONS: schema.MASKED_LM_POSITIONS}
        read = {
            name: keras.Input((None,), dtype="int32", name=renamed.get(name, name))
            for name in encoder_part.input
        }
        encoded = encoder_part(read)
        inputs = {renamed.get(name, name): tensor for name, tensor in read.items()}
        at_masks = encoded[served.SEQUENCE_OUTPUT]
        outputs = {
            served.MASKED_LM_LOGITS: masked_lm_head(at_masks),
            served.NEXT_SENTENCE_LOGITS: next_sentence(encoded[served.POOLED_OUTPUT]),
        }
        slots = keras.Input((), dtype="int32", name=SLOTS)
        vectors = keras.ops.reshape(at_masks, (-1, at_masks.shape[-1]))  # [B·P, H]
        chosen = keras.ops.take(vectors, slots, 0)
        slot_inputs = {**inputs, SLOTS: slots}
        slot_outputs = {**outputs, served.MASKED_LM_LOGITS: masked_lm_head(chosen)}
        more = {"last_inputs": encoded["last_inputs"]}
        return cls(
            whole=keras.Model(inputs, outputs, name="pretraining_whole"),
            at_slots=keras.Model(slot_inputs, slot_outputs, name="pretraining_at_slots"),
            for_students=keras.Model(inputs, outputs | more, name="student"),
            for_students_at_slots=keras.Model(
                slot_inputs, slot_outputs | more, name="student_at_slots"
            ),
        )


@keras.saving.register_keras_serializable(package="clozeline")
class PretrainingModel(keras.Model):
    """The functional model of `build_pretraining_model`; it is serialized as its config.

    Serialized as a graph, the loaded masked-LM head would get a separate token embedding: Keras's
    graph does not record that a layer nested in another one is shared.

    Attributes:
        encoder: the encoder.
        variants: models of the same layers for records of one pair.
        packed_variants: the same for packed records; None = not built.
    """

    def __init__(self, config: BertConfig, *, packed: bool = False) -> None:
        encoder = build_encoder(config)
        masked_lm_head = MaskedLMHead(
            token_embedding=encoder.get_layer("token_embedding"),
            intermediate_activation=_ACTIVATIONS[config.hidden_act],
            layer_norm_epsilon=config.layer_norm_eps,
            kernel_initializer=_initializer(config),
            name="masked_lm",
        )
        # Initial weights are drawn in this order, so that a seed keeps its weights.
        masked_lm_head.build((None, None, config.hidden_size))
        heads = masked_lm_head, _dense(config, 2, "next_sentence")
        variants = PretrainingVariants.of(at_positions(encoder), *heads)
        whole = variants.whole
        super().__init__(inputs=whole.input, outputs=whole.output, name="pretraining")
        self.variants = variants
        self.packed_variants = None
        if packed:
            self.packed_variants = PretrainingVariants.of(at_packed_positions(encoder), *heads)
        self.config = config
        self.encoder = encoder

    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
        """Return a layer by name or index; `encoder` is not a node of the graph, but works too."""
        return self.encoder if name == "encoder" else super().get_layer(name, index)

    def get_config(self) -> JsonObject:
        """Return the model's config, for serialization."""
        return self.config.to_dict()

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PretrainingModel":
        """Return the model that `get_config` describes."""
        del custom_objects  # not needed: every layer is registered
        return cls(BertConfig.from_dict(config))


def build_pretraining_model(config: BertConfig, *, packed: bool = False) -> keras.Model:
    """Return the encoder with the masked-LM and the next-sentence head.

    With `packed`, it also has `packed_variants` for packed records of up to K pairs: they have the
    inputs position_ids int32 [B, L] and next_sentence_positions int32 [B, K], too, and their
    next_sentence_logits are [B, K, 2].

    Its layers are `encoder`, `masked_lm` and `next_sentence`.

    Inputs, by name: the encoder's, and
        masked_lm_positions: int32 [B, P]. Indices into input_ids.

    Outputs, by name:
        masked_lm_logits: float [B, P, V]. Logits of all pieces at those positions; the output
            matrix is the token embedding.
        next_sentence_logits: float [B, 2]. Logits: 0 = B follows A, 1 = B is random.
    """
    return PretrainingModel(config, packed=packed)


def build_task_model(config: BertConfig, task: Task) -> keras.Model:
    """Return the encoder with a task's head, see `TaskKind.head_layer`.

    Its layers are `encoder` and `task`.

    Inputs, by name: the encoder's.

    Outputs, by name:
        task_logits: float32 [B, C], or [B, L, C] for an answer per position. Logits of the classes;
            the predicted number of a regression (C = 1); logits of a span's start and end (C = 2);
            the vector of a text (C = H).
    """
    encoder = build_encoder(config)
    inputs = _encoder_inputs()
    encoded = encoder(inputs)
    head = task.definition.head_layer(task)
    if head is not None:
        outputs = head(encoded[served.SEQUENCE_OUTPUT], inputs[schema.INPUT_MASK])
        return keras.Model(inputs, {served.TASK_LOGITS: outputs}, name="tuned")
    x = encoded[served.SEQUENCE_OUTPUT if task.is_per_position else served.POOLED_OUTPUT]
    x = Dropout(config.hidden_dropout_prob, dtype="float32", name="task_dropout")(x)
    dense = keras.layers.Dense(
        task.num_outputs, kernel_initializer=_initializer(config), dtype="float32", name=TASK_HEAD
    )
    return keras.Model(inputs, {served.TASK_LOGITS: dense(x)}, name="tuned")


def build_model(config: BertConfig, task: Task | None) -> keras.Model:
    """Return the model of a task; the pretraining model if the task is None."""
    return build_task_model(config, task) if task else build_pretraining_model(config)


def recompute_layers(model: keras.Model) -> None:
    """Switch on gradient checkpointing in a model's Transformer layers."""
    for layer in model.get_layer("encoder").layers:
        if isinstance(layer, EncoderLayer):
            layer.recompute = True


def weights_by_name(model: keras.Model) -> Variables:
    """Return a model's weights, as TensorFlow variables by their Keras path."""
    return {weight.path: weight.value for weight in model.weights}
