"""Every command as a function: a frozen configuration in, a frozen result out.

    from clozeline.api import VocabularyConfig, make_vocabulary

    report = make_vocabulary(VocabularyConfig(input=("books/*.txt",), output=Path("vocab.txt")))
    print(report.pieces)

Paths may be URLs of object stores: `path_from("gs://bucket/run")` has the interface of a `Path`.

These are the functions of the rooms themselves. What the user gave and cannot be used is an
`InputError`, what failed otherwise a `JobError`; both say in one line what and where, with fields
of the configuration in backquotes. Notes go through `logging` (`logging.basicConfig(level="INFO")`
shows them), progress bars to standard error (`pipeline.progress.stderr.quiet = True` hides them).
TensorFlow and Keras are imported with this module; what they read from the environment is set
before.
"""

from model.configs import (
    EvaluateConfig,
    FinetuneConfig,
    HuggingFaceExportConfig,
    ImportConfig,
    PretrainConfig,
)
from model.evaluate import EvaluationResult
from model.evaluate import evaluate_run as evaluate
from model.explaining.config import ExplainConfig
from model.explaining.explanation import Explanation, explain
from model.finetune import FinetuneResult, TunedRun, finetune
from model.interchange.export_hugging_face import HuggingFaceExport, export_hugging_face
from model.interchange.import_checkpoint import ImportResult, import_checkpoint
from model.planning import Estimate, PlanConfig
from model.planning import estimate as plan
from model.pretrain import PretrainResult, pretrain
from model.tasks.tables import Columns
from model.tasks.vectors import VectorConfig
from model.training.config import ExecutionConfig, LaunchConfig, RecoveryConfig, UpdateConfig
from model.training.launcher import Launched, launch
from pipeline.configs import InspectConfig, PreprocessConfig, VocabularyConfig
from pipeline.errors import InputError, JobError
from pipeline.inspection import Inspection, inspect_dataset
from pipeline.make_vocabulary import VocabularyReport, make_vocabulary
from pipeline.preprocess import DatasetReport, PreprocessReport, preprocess
from pipeline.storage.cache import CacheConfig
from pipeline.storage.remote import path_from
from serving.client.answers import Answer, query
from serving.configs import ExportConfig, QueryConfig, ServeConfig
from serving.export.export import Exported, export
from serving.server.launch import Addresses
from serving.server.launch import serving_models as serve

__all__ = [
    "Addresses",
    "Answer",
    "CacheConfig",
    "Columns",
    "DatasetReport",
    "Estimate",
    "EvaluateConfig",
    "EvaluationResult",
    "ExecutionConfig",
    "ExplainConfig",
    "Explanation",
    "ExportConfig",
    "Exported",
    "FinetuneConfig",
    "FinetuneResult",
    "HuggingFaceExport",
    "HuggingFaceExportConfig",
    "ImportConfig",
    "ImportResult",
    "InputError",
    "InspectConfig",
    "Inspection",
    "JobError",
    "LaunchConfig",
    "Launched",
    "PlanConfig",
    "PreprocessConfig",
    "PreprocessReport",
    "PretrainConfig",
    "PretrainResult",
    "QueryConfig",
    "RecoveryConfig",
    "ServeConfig",
    "TunedRun",
    "UpdateConfig",
    "VectorConfig",
    "VocabularyConfig",
    "VocabularyReport",
    "evaluate",
    "explain",
    "export",
    "export_hugging_face",
    "finetune",
    "import_checkpoint",
    "inspect_dataset",
    "launch",
    "make_vocabulary",
    "path_from",
    "plan",
    "preprocess",
    "pretrain",
    "query",
    "serve",
]
