"""`clozeline inspect`: check a dataset and show its contents."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from clozeline.commands import spelled
from clozeline.commands.caching import CachingCommand
from clozeline.options import config_from
from clozeline.show.terminal import results, warn
from pipeline.configs import InspectConfig
from pipeline.progress import counted
from pipeline.storage.remote import is_remote


@dataclass(frozen=True, kw_only=True)
class Inspect(CachingCommand):
    """Check a dataset against its manifest and show examples, or show rejected documents."""

    dataset: Annotated[Path, tyro.conf.Positional]
    """The dataset folder, or a folder that `preprocess --rejected` wrote."""
    examples: int = InspectConfig.examples
    """Number of examples to show; of rejected documents, for each rule."""
    split: Literal["train", "eval"] = InspectConfig.split
    """Split of the examples to show; all splits are checked."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a flag is out of range, or has no effect next to the others.
        """
        self.configuration()
        if not self.examples:
            self.refuse_given("`examples` 0 shows none; every split is checked", "split")

    def configuration(self) -> InspectConfig:
        """Return what to look at."""
        return config_from(self, InspectConfig)

    def before_tensorflow(self) -> None:
        """Look for a local dataset; a remote one takes requests.

        Raises:
            InputError: there is no dataset, or one of its files is missing or truncated.
        """
        from pipeline.manifest import read_manifest

        if not is_remote(self.dataset) and self._is_dataset():
            read_manifest(self.dataset)

    def run(self) -> dict[str, Any]:
        """Check, show, and return what was counted."""
        return self._dataset() if self._is_dataset() else self._rejections()

    def _is_dataset(self) -> bool:
        from pipeline.inspect_rejections import holds_rejections
        from pipeline.manifest import MANIFEST

        # The manifest first, so that a store that does not answer is reported with its name.
        return (self.dataset / MANIFEST).exists() or not holds_rejections(self.dataset)

    def _rejections(self) -> dict[str, Any]:
        from clozeline.show.dataset import rejected_document, rejection_table
        from pipeline.inspect_rejections import inspect_rejections

        # Not in __post_init__: what the folder holds is known only now, and it may be remote.
        self.refuse_given("rejected documents have no split", "split")
        rules = inspect_rejections(self.dataset, self.examples)
        results.print(rejection_table(rules))
        examples = [document for rule in rules.values() for document in rule.examples]
        for document in examples:
            results.print(rejected_document(document))
        return {
            "rejected": str(self.dataset),
            "rejected_documents": {name: rule.documents for name, rule in rules.items()},
            "examples": examples,
        }

    def _dataset(self) -> dict[str, Any]:
        from clozeline.show.dataset import dataset_table, decoded, length_table
        from pipeline.inspection import inspect_dataset

        found = inspect_dataset(self.configuration())
        manifest = found.manifest
        results.print(dataset_table(str(self.dataset), manifest))
        results.print(length_table(found.lengths, manifest.max_seq_length))
        entropy = found.unigram_entropy_nats
        results.print(f"Unigram entropy of the pieces: {entropy:.3f} nats")
        results.print(f"Unknown pieces ([UNK]): {found.unknown_rate:.1%}")
        # The JSON has them, too, so their fields become flags before anything is printed.
        warnings = [spelled(warning, "inspect") for warning in found.warnings]
        warn(warnings)
        for record in found.records:
            results.print(decoded(record, found.vocabulary, manifest.pairing))
        examples = {name: manifest.examples(name) for name in manifest.splits}
        total = sum(examples.values())
        results.print(f"Checked {counted(total, 'examples')}: checksums, records and counts agree.")
        return {
            "dataset": str(self.dataset),
            "examples": examples,
            "statistics": manifest.statistics,
            "unigram_entropy_nats": entropy,
            "unknown_rate": found.unknown_rate,
            "warnings": warnings,
            "lengths": found.lengths,
        }
