"""The model card: README.md with YAML front matter that the Hub reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from panformer_cli import __version__
from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.checkpoints.hub_models import LIBRARY, PREFIX
from panformer_cli.engine.publishing.evaluation import EvaluationSummary, Score
from panformer_cli.engine.publishing.publication import Publication
from panformer_cli.recipe_io import recipe_differences, recipe_from_dict
from panformer_cli.storage import plain_yaml
from panformer_cli.wording import counted, interval_text

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|&~$]")
_ROLES = {
    "train": "annotations of the training split",
    "val": "annotations of the validation split",
    "init_from": "weights that training started from",
}


def model_card(publication: Publication) -> str:
    """Return the content of README.md."""
    front = plain_yaml.write_standard(_front_matter(publication))
    sections = [f"# {publication.name}", _introduction(publication), *_use(publication), *_metrics(publication)]
    sections += [*_training(publication), *_categories(publication.checkpoint.categories), *_versions(publication)]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(publication: Publication) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": LIBRARY,
        "license": publication.license,
        "pipeline_tag": "image-segmentation",
        "tags": [LIBRARY, "panoptic-segmentation", publication.checkpoint.recipe.model.family.replace("_", "-")],
    }
    if (evaluation := publication.evaluation) is not None:
        result = {
            "task": {"type": "image-segmentation", "name": "Panoptic segmentation"},
            "dataset": {"type": "panoptic", "name": _evaluated_data(publication), "split": evaluation.split},
            "metrics": [_metric(score, evaluation.images) for score in evaluation.scores],
        }
        front["model-index"] = [{"name": publication.name, "results": [result]}]
    return front


def _metric(score: Score, images: int) -> dict[str, Any]:
    """Return a metric for the Hub; its schema has no place for an interval except `args`."""
    metric: dict[str, Any] = {"type": score.kind, "name": score.name, "value": round(score.value, 2)}
    if score.interval is not None:
        ends = [round(end, 2) for end in score.interval]
        metric["args"] = {"interval_95_percent": ends, "bootstrap_over_images": images}
    return metric


def _evaluated_data(publication: Publication) -> str:
    """Return the name of the data that the scores are from, which need not be the data of the training."""
    evaluation = publication.evaluation
    assert evaluation is not None, "only evaluations have such data"
    is_own = evaluation.annotation_sha256 in {file.sha256 for file in publication.data}
    return (publication.data_name if is_own else None) or "unnamed data set"


def _introduction(publication: Publication) -> str:
    model, categories = publication.checkpoint.recipe.model, publication.checkpoint.categories
    data = f" on {escaped(publication.data_name)}" if publication.data_name else ""
    by_panformer = " with panformer" if publication.is_trained else ""
    trained = f", trained{data}{by_panformer}" if data or by_panformer else ""
    things, stuff = counted(categories.num_things, "thing class"), counted(categories.num_stuff, "stuff class")
    return (
        f"A model for panoptic segmentation with {things} and {stuff}{trained}: "
        f"`{model.family}` with the backbone `{model.backbone}`, "
        f"{publication.parameters / 1e6:.1f} million parameters."
    )


def _use(publication: Publication) -> list[str]:
    reference = f"{PREFIX}{publication.repository}"
    command = (
        "pip install 'panformer[hub]'\n"
        f"panformer predict photos/ --out predictions --checkpoint {reference}\n"
        f"panformer evaluate {reference} --data ROOT --split S"
    )
    code = (
        f'import panformer\n\nmodel = panformer.load("{reference}")\nresult = model("photo.jpg")\n'
        'for segment in result.segments:\n    print(segment.name, segment.score, segment.area)\nresult.save("out")'
    )
    return ["## Use", f"```\n{command}\n```", f"```python\n{code}\n```"]


def _metrics(publication: Publication) -> list[str]:
    evaluation = publication.evaluation
    if evaluation is None:
        return ["## Metrics", "These weights were not evaluated before they were published."]
    rows = [
        (score.name, f"{score.value:.1f}", interval_text(score.interval) if score.interval else "")
        for score in evaluation.scores
    ]
    return ["## Metrics", _evaluated(publication, evaluation), table(("metric", "percent", "95 % interval"), rows)]


def _evaluated(publication: Publication, evaluation: EvaluationSummary) -> str:
    where = f"split {escaped(evaluation.split)} of {escaped(_evaluated_data(publication))}"
    text = f"Measured by `panformer evaluate` on {counted(evaluation.images, 'image')}, {where}"
    if evaluation.annotation_sha256:
        text += f" (SHA-256 of the annotation: `{evaluation.annotation_sha256}`)"
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in evaluation.settings.items())
    intervals = " The intervals are from a bootstrap over the images." if evaluation.has_intervals else ""
    return f"{text}, with {escaped(settings)}.{intervals}"


def _training(publication: Publication) -> list[str]:
    recipe, progress = publication.checkpoint.recipe, publication.checkpoint.progress
    defaults = recipe_from_dict({"model": {"family": recipe.model.family}}, "the defaults")
    changed = {key: new for key, (_, new) in recipe_differences(defaults, recipe).items()}
    settings = plain_yaml.write_standard(changed)
    weights = " The weights are the moving average of training." if recipe.train.ema_decay else ""
    text = f"Recipe {escaped(recipe.name)}, {counted(progress.step, 'optimizer step')}.{weights}"
    if not publication.is_trained:
        text = f"panformer did not train these weights. It runs them by the recipe {escaped(recipe.name)}."
    listed = "These settings differ from the defaults of panformer; `config.json` has all of them."
    return ["## Training", f"{text} {listed}", f"```yaml\n{settings}```", *_data(publication)]


def _data(publication: Publication) -> list[str]:
    files = publication.data
    if not files:
        return ["The run does not record which data it was trained on."] if publication.is_trained else []
    rows = [(_ROLES.get(file.role, file.role), str(file.size), f"`{file.sha256}`") for file in files]
    return ["The files that the weights depend on:", table(("file", "bytes", "SHA-256"), rows)]


def _categories(categories: CategoryTable) -> list[str]:
    listed = {
        "Things": [category.name for category in categories.categories if category.is_thing],
        "Stuff": [category.name for category in categories.categories if not category.is_thing],
    }
    lines = [f"{kind}: {', '.join(map(escaped, names))}." for kind, names in listed.items() if names]
    return ["## Classes", *lines]


def _versions(publication: Publication) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in publication.versions.items())
    trained = f"Trained with {escaped(versions)}. " if publication.is_trained else ""
    return ["## Versions", f"{trained}Published with panformer {__version__}."]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Return a text as one line of Markdown that shows it unchanged: names of categories can be anything.

    >>> escaped("a*b")
    'a\\\\*b'
    """
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
