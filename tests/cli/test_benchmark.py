"""`panformer benchmark`: table, JSON, and errors."""

from __future__ import annotations

import json

import pytest

from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_to_yaml
from panformer_cli.settings import DataSettings
from tests.cli.test_cli import HEAVY
from tests.helpers import in_new_process, run
from tests.models.panoptic_segformer.small import SMALL

PARTS = ("backbone", "neck", "encoder", "location_decoder", "thing_mask_decoder", "stuff_mask_decoder")
STAGES = ("decode", "prepare", *PARTS, "network_rest", "merging", "writing")


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(recipe_to_yaml(Recipe("small", model=SMALL, data=DataSettings())), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_the_table_has_every_stage(recipe_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("benchmark", recipe_file, "--size", "64x80", "--repeat", "1", "--device", "cpu") == 0
    out = capsys.readouterr().out
    words = " ".join(out.split())  # a long path may break the title
    assert words.startswith(f"{recipe_file}, random weights: 64x80, batch 1, fp32")
    firsts = [line.strip() for line in out.splitlines()]
    for label in [*(stage.replace("_", " ") for stage in STAGES), "network alone", "file to result"]:
        assert any(line.startswith(label) for line in firsts), label
    assert "segments per image of 64x80" in out
    assert "MiB (of the process" in out


@pytest.mark.slow
def test_only_json_is_on_stdout(recipe_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--size", "64x64", "--batch", "2", "--repeat", "1", "--device", "cpu", "--precision", "bf16", "--json"]
    assert run("benchmark", recipe_file, *arguments) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["batch"], content["precision"], content["input_size"]) == (2, "bf16", [64, 64])
    assert list(content["stages"]) == list(STAGES)


def test_help_imports_nothing_heavy() -> None:
    loaded = in_new_process(
        "import sys\nfrom panformer_cli.cli.main import main\n"
        "try:\n    main(['benchmark', '--help'])\nexcept SystemExit as exit:\n    assert not exit.code\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])"
    )
    assert loaded.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Missing argument 'RECIPE|CHECKPOINT'"),
        (["r5O"], "did you mean r50?"),
        (["tiny", "--size", "800"], "--size is '800': expected HEIGHTxWIDTH in pixels, such as 800x1333"),
        (["tiny", "--size", "8x1333"], "--size is 8x1333: expected sides of 32 to 8192 pixels"),
        (["tiny", "--batch", "0"], "0 is not in the range x>=1"),
        (["tiny", "--repeat", "0"], "0 is not in the range x>=1"),
        (["tiny", "--precision", "fp8"], "'fp8' is not one of 'fp32', 'bf16', 'fp16'"),
        (["tiny", "--sampling", "cuda"], "'cuda' is not one of 'auto', 'portable'"),
        (
            ["tiny", "--device", "gpu"],
            "--device is 'gpu', which is not available here; expected one of auto, cpu",
        ),
        (["tiny", "--device", "cpu", "--precision", "fp16"], "--precision fp16 needs a GPU"),
        (["tiny", "--image", "/no/such.jpg"], "the image /no/such.jpg is missing"),
    ],
)
def test_invalid_usage_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("benchmark", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert err.count("\n") == 1
