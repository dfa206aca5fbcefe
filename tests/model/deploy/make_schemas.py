"""Write the JSON schemas of JobSets and of Vertex AI's custom jobs, without descriptions.

They come from the packages kubeflow-trainer-api (models generated from the CRDs) and
google-api-python-client (Google's discovery document), which tests need not install:

    uv run --no-project --with kubeflow-trainer-api==2.3.0 \
        --with google-api-python-client==2.202.0 python tests/model/deploy/make_schemas.py
"""

import importlib.resources
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
JOB_TEMPLATE = "IoK8sApiBatchV1JobTemplateSpec"


def jobset() -> dict[str, Any]:
    """Job templates are left open: they are checked as Jobs, against Kubernetes' own schema."""
    from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

    schema = JobsetV1alpha2JobSet.model_json_schema(by_alias=True)
    ours = {name: part for name, part in schema["$defs"].items() if name.startswith("Jobset")}
    others = {name: {} for name in schema["$defs"] if name not in ours}
    return closed({**schema, "$defs": ours | others})


def vertex() -> dict[str, Any]:
    documents = importlib.resources.files("googleapiclient.discovery_cache.documents")
    schemas = json.loads((documents / "aiplatform.v1.json").read_text())["schemas"]
    top = "GoogleCloudAiplatformV1CustomJobSpec"
    used: dict[str, Any] = {}
    left = [top]
    while left:
        name = left.pop()
        if name not in used:
            used[name] = schemas[name]
            left += references(schemas[name])
    return closed({"$ref": f"#/$defs/{top}", "$defs": used})


def references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [name for each in part for name in references(each)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [name for each in part.values() for name in references(each)]


def closed(part: Any) -> Any:
    """Return a schema that refuses unknown fields, without what only people read."""
    if isinstance(part, list):
        return [closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    kept = {
        key: {name: closed(each) for name, each in value.items()}
        if key in ("properties", "$defs") else closed(value)
        for key, value in part.items()
        if key not in ("description", "title", "default", "enumDescriptions", "format", "id",
                       "readOnly", "enumDeprecated", "deprecated")
    }  # fmt: skip
    if isinstance(kept.get("$ref"), str) and not kept["$ref"].startswith("#"):
        kept["$ref"] = f"#/$defs/{kept['$ref']}"
    if part.get("format") == "int64":  # a number or its digits, in Google's JSON
        kept["type"] = ["integer", "string"]
    if "properties" in kept:
        kept["additionalProperties"] = False
    return kept


def without_unused(schema: dict[str, Any]) -> dict[str, Any]:
    used: set[str] = set()
    left = [{key: value for key, value in schema.items() if key != "$defs"}]
    while left:
        for reference in references(left.pop()):
            name = reference.rpartition("/")[2]
            if name not in used:
                used.add(name)
                left.append(schema["$defs"][name])
    return {**schema, "$defs": {name: schema["$defs"][name] for name in sorted(used)}}


if __name__ == "__main__":
    for name, schema in (("jobset", jobset()), ("vertex", vertex())):
        text = json.dumps(without_unused(schema), indent=1, sort_keys=True) + "\n"
        (HERE / f"{name}.schema.json").write_text(text)
