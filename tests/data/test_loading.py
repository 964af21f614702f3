"""Training batches: the same images in each step for any number of processes and after a resume."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.epoch_order import EpochOrder
from panformer_cli.data.loading import TrainItem, TrainLoader, WorkerDiedError, collate, train_loader
from panformer_cli.data.structures import Batch, Sample, Targets
from panformer_cli.errors import DataError, PanformerError, RecipeError
from panformer_cli.recipe import Recipe
from panformer_cli.settings import DataSettings, TrainSettings
from tests.data.coco.coco_files import write_coco


def recipe(batch_size: int = 4, together: int = 1, seed: int = 0, workers: int = 0, skip: bool = False) -> Recipe:
    data = DataSettings(train_short_sides=(32, 40, 48), workers=workers, skip_bad_images=skip)
    return Recipe(data=data, train=TrainSettings(batch_size=batch_size, images_per_forward=together, seed=seed))


@pytest.fixture
def coco(tmp_path: Path) -> CocoPanoptic:
    write_coco(tmp_path, images=10)
    return CocoPanoptic(tmp_path, "val")


def ids_of(steps: list[list[Batch]]) -> list[list[int | str]]:
    return [[image_id for batch in step for image_id in batch.image_ids] for step in steps]


def images_of(steps: list[list[Batch]]) -> list[torch.Tensor]:
    return [batch.images for step in steps for batch in step]


def item(height: int, width: int, image_id: int) -> TrainItem:
    targets = Targets(torch.tensor([image_id]), torch.zeros(1, 4), torch.ones(1, height, width, dtype=torch.bool))
    return TrainItem(torch.full((3, height, width), float(image_id)), targets, image_id)


def test_collate_pads_images_with_zeros_at_the_bottom_right() -> None:
    batch = collate([item(4, 6, 1), item(5, 3, 2)])
    assert batch.images.shape == (2, 3, 5, 6) and batch.padding_mask.shape == (2, 5, 6)
    assert batch.padding_mask.dtype == torch.bool and batch.image_ids == [1, 2]
    assert (batch.images[0, :, :4, :6] == 1).all() and (batch.images[1, :, :5, :3] == 2).all()
    assert (~batch.padding_mask).sum((1, 2)).tolist() == [24, 15]
    assert not batch.padding_mask[0, :4, :6].any() and not batch.padding_mask[1, :5, :3].any()
    assert (batch.images * batch.padding_mask[:, None]).abs().sum() == 0
    assert [target.masks.shape for target in batch.targets] == [(1, 4, 6), (1, 5, 3)]


def test_an_epoch_uses_each_image_at_most_once_and_drops_the_rest() -> None:
    order = EpochOrder(images=10, batch_size=4, seed=0)
    steps = [[draw.image for draw in step] for step in order.step_draws(epoch=0)]
    assert order.steps == len(steps) == 2 and [len(step) for step in steps] == [4, 4]
    taken = steps[0] + steps[1]
    assert len(set(taken)) == 8 and set(taken) <= set(range(10))
    later = [[draw.image for draw in step] for step in order.step_draws(epoch=1)]
    assert later != steps
    seen = {draw.image for epoch in range(30) for step in order.step_draws(epoch) for draw in step}
    assert seen == set(range(10))


def test_images_repeat_if_there_are_fewer_than_one_step_needs() -> None:
    order = EpochOrder(images=3, batch_size=8, seed=0)
    (step,) = order.step_draws(epoch=0)
    counts = np.bincount([draw.image for draw in step], minlength=3)
    assert order.steps == 1 and sorted(counts.tolist()) == [2, 3, 3]
    assert len({draw.position for draw in step}) == 8  # each repetition is augmented independently


@pytest.mark.parametrize(("world_size", "together"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_the_images_of_a_step_do_not_depend_on_the_number_of_processes(
    coco: CocoPanoptic, world_size: int, together: int
) -> None:
    expected = ids_of(list(train_loader(coco, recipe()).epoch(3)))
    ranks = [train_loader(coco, recipe(together=together), rank, world_size) for rank in range(world_size)]
    assert {rank.steps_per_epoch for rank in ranks} == {2}
    epochs = [list(rank.epoch(3)) for rank in ranks]
    for number, images in enumerate(expected):
        shares = [epoch[number] for epoch in epochs]
        assert all(len(batch.image_ids) == together for share in shares for batch in share)
        assert [image for share in shares for batch in share for image in batch.image_ids] == images


def test_an_epoch_can_start_at_any_step(coco: CocoPanoptic) -> None:
    loader = train_loader(coco, recipe(batch_size=2))
    whole = list(loader.epoch(1))
    rest = list(train_loader(coco, recipe(batch_size=2)).epoch(1, first_step=3))
    assert len(whole) == 5 and ids_of(rest) == ids_of(whole[3:])
    assert all(torch.equal(a, b) for a, b in zip(images_of(rest), images_of(whole[3:]), strict=True))
    assert list(loader.epoch(1, first_step=5)) == []


@pytest.mark.slow
def test_epochs_and_seeds_differ_in_order_and_augmentation(coco: CocoPanoptic) -> None:
    def order(seed: int, epoch: int) -> list[list[int | str]]:
        return ids_of(list(train_loader(coco, recipe(seed=seed)).epoch(epoch)))

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)
    shapes = {
        (batch.image_ids[0], tuple(batch.images.shape))
        for epoch in range(12)
        for step in train_loader(coco, recipe()).epoch(epoch)
        for batch in step
    }
    assert len(shapes) > 15  # 10 images, of several sizes each


def test_each_use_of_an_image_is_augmented_independently(tmp_path: Path) -> None:
    write_coco(tmp_path, images=1)
    (step,) = train_loader(CocoPanoptic(tmp_path, "val"), recipe(batch_size=12)).epoch(0)
    assert len({tuple(batch.images.shape) for batch in step}) > 2


def test_loading_does_not_change_the_random_state_of_torch(coco: CocoPanoptic) -> None:
    before = torch.get_rng_state()
    list(train_loader(coco, recipe()).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_worker_processes_give_the_same_batches(coco: CocoPanoptic) -> None:
    alone, workers = train_loader(coco, recipe(together=2)), train_loader(coco, recipe(together=2, workers=2))
    for epoch in range(2):
        expected, found = list(alone.epoch(epoch)), list(workers.epoch(epoch))
        assert ids_of(found) == ids_of(expected)
        assert all(torch.equal(a, b) for a, b in zip(images_of(found), images_of(expected), strict=True))
        for one, two in zip(expected[0][0].targets, found[0][0].targets, strict=True):
            assert torch.equal(one.masks, two.masks) and torch.equal(one.boxes, two.boxes)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other platforms use their default start method")
def test_workers_are_children_of_the_training_process(coco: CocoPanoptic) -> None:
    """With forkserver, a SIGTERM to all processes would end the server, and with it the workers."""
    default = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)  # as in Python 3.14
    try:
        batches = train_loader(coco, recipe(batch_size=1, workers=2)).epoch(0)
        next(batches)
        stats = [Path(f"/proc/{worker.pid}/stat").read_text() for worker in multiprocessing.active_children()]
    finally:
        multiprocessing.set_start_method(default, force=True)
    assert [int(stat.rpartition(")")[2].split()[1]) for stat in stats] == 2 * [os.getpid()]


@pytest.mark.slow
def test_an_interrupted_epoch_does_not_affect_the_next_one(coco: CocoPanoptic) -> None:
    loader = train_loader(coco, recipe(batch_size=1, workers=1))
    next(iter(loader.epoch(0)))
    assert ids_of(list(loader.epoch(1))) == ids_of(list(train_loader(coco, recipe(batch_size=1)).epoch(1)))


def test_batches_that_cannot_be_divided_are_rejected(coco: CocoPanoptic) -> None:
    with pytest.raises(RecipeError, match=r"batch_size is 8: expected a multiple of 6 .* set train.batch_size to 6"):
        train_loader(coco, recipe(batch_size=8, together=2), rank=0, world_size=3)
    with pytest.raises(RecipeError, match="set train.batch_size to 4"):
        train_loader(coco, recipe(batch_size=2, together=4))


def failure(loader: TrainLoader) -> tuple[type[PanformerError], str]:
    """Return the error that ends an epoch. Unlike `pytest.raises` it keeps no traceback, and so no worker."""
    try:
        list(loader.epoch(0))
    except PanformerError as error:
        return type(error), str(error)
    raise AssertionError("the epoch ended without an error")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_ends_the_epoch_with_an_error(coco: CocoPanoptic, workers: int) -> None:
    coco.png_path(4).unlink()
    kind, text = failure(train_loader(coco, recipe(batch_size=10, workers=workers)))
    assert kind is DataError
    assert text.startswith(f"the panoptic PNG {coco.png_path(4)} is missing") and "\n" not in text


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_replaced_counted_and_listed(coco: CocoPanoptic, workers: int) -> None:
    coco.png_path(4).unlink()
    coco.image_path(5).write_bytes(b"corrupt")
    loader = train_loader(coco, recipe(batch_size=5, skip=True, workers=workers))
    steps = [step for epoch in range(2) for step in loader.epoch(epoch)]
    assert [len(ids) for ids in ids_of(steps)] == [5] * 4
    taken = [image for ids in ids_of(steps) for image in ids]
    assert sorted(taken[:10]) == [100, 101, 102, 103, 106, 106, 106, 107, 108, 109]  # 106 replaces both
    assert len(loader.skipped) == 2
    assert {str(coco.png_path(4)) in text for text in loader.skipped} == {True, False}


def test_only_bad_images_are_an_error_even_when_skipping(coco: CocoPanoptic) -> None:
    for number in range(len(coco)):
        coco.image_path(number).unlink()
    with pytest.raises(DataError, match="none of the 10 training images can be used"):
        next(iter(train_loader(coco, recipe(skip=True)).epoch(0)))


class DyingCoco(CocoPanoptic):
    """Reading ends the process, like running out of memory."""

    def __getitem__(self, index: int) -> Sample:
        os._exit(1)


def test_a_worker_that_dies_is_explained(tmp_path: Path) -> None:
    write_coco(tmp_path, images=2)
    kind, text = failure(train_loader(DyingCoco(tmp_path, "val"), recipe(batch_size=1, workers=1)))
    assert kind is WorkerDiedError and "\n" not in text
    assert text.startswith("a data loading worker died") and "set data.workers lower" in text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_too_few_open_files_are_explained(coco: CocoPanoptic) -> None:
    """Every tensor of a batch that is in use or on its way is an open file. No limit may make training wait forever."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    try:
        for more in (6, 20, 40):
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, before[1]))
            kind, text = failure(train_loader(coco, recipe(batch_size=10, together=10, workers=1)))
            assert kind is WorkerDiedError and "\n" not in text
            assert "ulimit -n" in text and "set data.workers lower" in text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_worker_that_dies_does_not_interrupt_a_step(coco: CocoPanoptic) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    loader = train_loader(coco, recipe(batch_size=1, workers=1))
    batches = loader.epoch(0)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is before
    (worker,) = multiprocessing.active_children()
    worker.kill()
    worker.join()
    with pytest.raises(WorkerDiedError, match="a data loading worker died"):
        list(batches)


def signal_from_another_process(number: int, pid: int) -> None:
    subprocess.run(["kill", f"-{number}", str(pid)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot tell who sent a signal")
def test_signals_that_stop_a_run_do_not_end_its_workers(coco: CocoPanoptic) -> None:
    """Batch systems send them to all processes; only the training process ends its workers, with SIGTERM."""
    loader = train_loader(coco, recipe(batch_size=1, workers=2))  # it keeps its workers
    batches = loader.epoch(0)
    taken = [next(batches)]
    first, second = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        for worker in (first, second):
            assert worker.pid is not None
            signal_from_another_process(number, worker.pid)
    taken += batches
    assert ids_of(taken) == ids_of(list(train_loader(coco, recipe(batch_size=1)).epoch(0)))
    first.terminate()
    first.join(10)
    assert first.exitcode == -signal.SIGKILL
