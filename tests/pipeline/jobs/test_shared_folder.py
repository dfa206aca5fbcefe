"""Storage that workers share with the submitting process; on several disks: `test_flink.py`."""

from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.errors import JobError
from pipeline.jobs.shared_folder import OnSharedStorage, folder_beside


def test_a_worker_that_sees_the_mark_passes_elements_on(tmp_path: Path) -> None:
    step = OnSharedStorage(str(tmp_path))
    step.start_bundle()
    assert list(step.process("element")) == ["element"]


def test_a_worker_that_sees_another_folder_fails(tmp_path: Path) -> None:
    step = OnSharedStorage(str(tmp_path))
    for path in tmp_path.iterdir():
        path.rename(tmp_path / "another")
    with pytest.raises(JobError, match="is not the same folder on worker"):
        step.start_bundle()


@pytest.mark.parametrize("location", [[], ["--temp_location={}/elsewhere"]])
@pytest.mark.parametrize("name", ["v.txt", "v" * 255, "ü" * 127])
def test_the_shared_folder_is_removed_at_the_end(
    tmp_path: Path, location: list[str], name: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    options = PipelineOptions([flag.format(tmp_path) for flag in location])
    with folder_beside(tmp_path / name, options) as folder:
        assert Path(folder).is_dir()
        assert Path(folder).parent == (tmp_path / "elsewhere" if location else tmp_path)
        (Path(folder) / "counts.json").write_text("{}", encoding="utf-8")
    assert [path.name for path in tmp_path.rglob("*")] == ["elsewhere"]
