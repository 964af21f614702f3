"""The corruptions of COCO-C, compared with their definitions: exact values by hand, noise by its statistics."""

from __future__ import annotations

import colorsys
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import poisson

from panformer_cli.data.corruptions import CORRUPTIONS, CORRUPTIONS_BY_GROUP, SEVERITIES, corrupt
from panformer_cli.data.corruptions.blur import move
from panformer_cli.data.corruptions.frost_texture import frost_source, frost_texture
from panformer_cli.data.corruptions.plasma import plasma
from panformer_cli.data.images import read_image
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray
from panformer_cli.errors import PanformerError

every_corruption = pytest.mark.parametrize("name", CORRUPTIONS)
every_severity = pytest.mark.parametrize("severity", SEVERITIES)

# The others are not monotonic: between severities, snow, spatter, frost and glass blur change several parameters,
# saturate changes its direction, and denser fog is also smoother.
GROWING = (
    *("motion_blur", "defocus_blur", "gaussian_blur"),
    *("gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise"),
    *("brightness", "contrast", "jpeg_compression"),
)


def smooth_image(height: int = 90, width: int = 120) -> ImageArray:
    """Smooth colors with sharp shapes."""
    down, right = np.mgrid[:height, :width]
    image = np.stack([40 + right, 200 - down, 60 + (down * right) // 80], axis=-1).astype(np.uint8)
    image[20:50, 30:70] = (200, 40, 40)
    image[(down - 60) ** 2 + (right - 90) ** 2 < 300] = (20, 90, 220)
    return image


def flat(level: int, side: int = 200) -> ImageArray:
    return np.full((side, side, 3), level, np.uint8)


def difference(corrupted: ImageArray, image: ImageArray) -> float:
    return float(np.abs(corrupted.astype(float) - image).mean())


def one_pixel(color: tuple[int, int, int], name: str, severity: int) -> tuple[int, ...]:
    corrupted = corrupt(np.array([[color]], np.uint8), name, severity, 0, 1)
    return tuple(int(channel) for channel in corrupted[0, 0])


def test_there_are_sixteen_corruptions_in_four_groups() -> None:
    assert len(CORRUPTIONS) == len(set(CORRUPTIONS)) == 16
    assert {group: len(functions) for group, functions in CORRUPTIONS_BY_GROUP.items()} == {
        "blur": 4,
        "noise": 4,
        "digital": 4,
        "weather": 4,
    }


@every_corruption
def test_an_image_changes_and_keeps_its_shape(name: str) -> None:
    image = smooth_image()
    before = image.copy()
    for severity in SEVERITIES:
        corrupted = corrupt(image, name, severity, 0, 1)
        assert corrupted.shape == image.shape
        assert corrupted.dtype == np.uint8
        assert difference(corrupted, image) > 0.3
    assert (image == before).all(), "the input is not changed"


@pytest.mark.parametrize("name", GROWING)
def test_a_higher_severity_changes_more(name: str) -> None:
    image = smooth_image()
    changes = [difference(corrupt(image, name, severity, 0, 1), image) for severity in SEVERITIES]
    assert changes == sorted(set(changes))


@every_corruption
def test_random_choices_depend_on_seed_image_and_severity(name: str) -> None:
    image = smooth_image(60, 60)
    first = corrupt(image, name, 3, 7, "a")
    corrupt(image, name, 4, 7, "b")
    assert (corrupt(image, name, 3, 7, "a") == first).all(), "independent of other draws"
    if name not in ("defocus_blur", "gaussian_blur", "brightness", "contrast", "saturate", "jpeg_compression"):
        assert (corrupt(image, name, 3, 8, "a") != first).any()
        assert (corrupt(image, name, 3, 7, "b") != first).any()


@pytest.mark.slow
def test_another_process_gives_the_same_result() -> None:
    program = (
        "import numpy as np, zlib; from panformer_cli.data.corruptions import corrupt;"
        "image = np.full((50, 50, 3), 90, np.uint8);"
        "print(zlib.crc32(b''.join(corrupt(image, n, 3, 5, 12).tobytes() for n in ('snow', 'fog', 'shot_noise'))))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    own = b"".join(corrupt(flat(90, 50), name, 3, 5, 12).tobytes() for name in ("snow", "fog", "shot_noise"))
    assert int(other) == zlib.crc32(own)


@every_corruption
def test_any_size_and_any_color(name: str) -> None:
    for size in ((1, 1), (1, 9), (2, 40), (31, 5), (70, 33)):
        drawn = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        for image in (drawn, np.zeros_like(drawn), np.full_like(drawn, 255)):
            image.flags.writeable = False
            for severity in SEVERITIES:
                corrupted = corrupt(image, name, severity, 0, 1)
                assert corrupted.shape == image.shape
                assert corrupted.dtype == np.uint8
                assert corrupted.flags.writeable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gaussian-noise", "did you mean gaussian_noise?"),
        ("Fog", "did you mean fog?"),
        ("zzz", "expected motion_blur, defocus_blur"),
    ],
)
def test_an_unknown_name_is_an_error(name: str, expected: str) -> None:
    with pytest.raises(PanformerError) as caught:
        corrupt(flat(0, 4), name, 1, 0, 1)
    assert repr(name) in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_an_unknown_severity_is_an_error(severity: int) -> None:
    with pytest.raises(PanformerError, match=rf"is {severity}; expected 1 \(weak\) to 5"):
        corrupt(flat(0, 4), "fog", severity, 0, 1)


def test_a_negative_seed_is_an_error() -> None:
    with pytest.raises(PanformerError, match="seed of the corruptions is -1; expected 0 or more"):
        corrupt(flat(0, 4), "fog", 1, -1, 1)


def test_brightness_by_hand() -> None:
    # Severity 2 adds 0.2 to the value 100 / 255: 151 / 255, and every channel grows by 151 / 100.
    assert one_pixel((100, 50, 25), "brightness", 2) in {(151, 75, 37), (150, 75, 37)}
    assert one_pixel((0, 0, 0), "brightness", 5) == (127, 127, 127)
    assert one_pixel((250, 125, 0), "brightness", 1) == (255, 127, 0)


@every_severity
def test_hsv_agrees_with_the_standard_library(severity: int) -> None:
    colors = np.random.default_rng(1).integers(0, 256, (40, 1, 3), dtype=np.uint8)
    colors[:4] = [[[0, 0, 0]], [[255, 255, 255]], [[77, 77, 77]], [[5, 0, 0]]]
    more = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    factor, added = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    brighter, saturated = (corrupt(colors, name, severity, 0, 1) for name in ("brightness", "saturate"))
    for index, color in enumerate(colors[:, 0] / 255):
        hue, saturation, value = colorsys.rgb_to_hsv(*color)
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))
        np.testing.assert_allclose(brighter[index, 0] + 0.5, np.array(expected) * 255, atol=0.51)
        expected = colorsys.hsv_to_rgb(hue, min(saturation * factor + added, 1), value)
        np.testing.assert_allclose(saturated[index, 0] + 0.5, np.array(expected) * 255, atol=0.51)


def test_contrast_by_hand() -> None:
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = (200, 100, 0)
    # Means 100, 50, 0; severity 1 keeps 0.4 of the distance to them.
    assert corrupt(image, "contrast", 1, 0, 1).tolist() == [[[60, 30, 0], [140, 70, 0]]]


@every_severity
def test_jpeg_agrees_with_opencv(severity: int) -> None:
    image = smooth_image()
    quality = (25, 18, 15, 10, 7)[severity - 1]
    _, file = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR))[..., ::-1]
    other = np.abs(corrupt(image, "jpeg_compression", severity, 0, 1).astype(int) - decoded)
    assert other.max() <= 4, "two builds of the codec round differently"
    assert other.mean() < 0.5


@every_severity
def test_gaussian_noise_has_its_deviation(severity: int) -> None:
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    noisy = corrupt(flat(128), "gaussian_noise", severity, 0, 1) / 255
    assert noisy.mean() == pytest.approx(0.5, abs=0.01)
    # Clipping moves the tails to 0 and 1, so the middle half is compared, which no severity clips.
    quarter, three_quarters = np.quantile(noisy, [0.25, 0.75])
    assert three_quarters - quarter == pytest.approx(1.349 * deviation, rel=0.03, abs=0.006)


@every_severity
def test_speckle_noise_is_proportional(severity: int) -> None:
    deviation = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
    for level in (40, 120):
        quarter, three_quarters = np.quantile(corrupt(flat(level), "speckle_noise", severity, 0, 1), [0.25, 0.75])
        assert three_quarters - quarter == pytest.approx(1.349 * deviation * level, rel=0.03, abs=1.5)
    assert not corrupt(flat(0), "speckle_noise", severity, 0, 1).any()


@every_severity
def test_shot_noise_counts_photons(severity: int) -> None:
    photons = (60, 25, 12, 5, 3)[severity - 1]
    noisy = corrupt(flat(64), "shot_noise", severity, 0, 1) / 255
    assert set(np.unique(np.round(noisy * photons).astype(int))) <= set(range(photons + 1))
    np.testing.assert_allclose(
        noisy * photons, np.round(noisy * photons), atol=photons / 255, err_msg="integer photons"
    )
    # Values above white are clipped.
    shares = poisson.pmf(np.arange(200), 64 / 255 * photons)
    seen = np.minimum(np.arange(200) / photons, 1)
    mean = (shares * seen).sum()
    assert noisy.mean() == pytest.approx(mean, abs=0.005)
    assert noisy.var() == pytest.approx((shares * (seen - mean) ** 2).sum(), rel=0.04)


@every_severity
def test_impulse_noise_has_its_fraction(severity: int) -> None:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    noisy = corrupt(flat(100), "impulse_noise", severity, 0, 1)
    assert set(np.unique(noisy)) == {0, 100, 255}
    four_deviations = 4 * (share / 2 / noisy.size) ** 0.5
    assert (noisy == 0).mean() == pytest.approx(share / 2, abs=four_deviations)
    assert (noisy == 255).mean() == pytest.approx(share / 2, abs=four_deviations)


@every_severity
def test_gaussian_blur_equals_that_of_scipy(severity: int) -> None:
    image, sigma = smooth_image(), (1, 2, 3, 4, 6)[severity - 1]
    expected = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="nearest", truncate=4)
    np.testing.assert_allclose(corrupt(image, "gaussian_blur", severity, 0, 1) + 0.5, expected, atol=0.51)


@every_severity
def test_defocus_blur_is_the_mean_over_a_disk(severity: int) -> None:
    image, radius = smooth_image(), (3, 4, 6, 8, 10)[severity - 1]
    corrupted = corrupt(image, "defocus_blur", severity, 0, 1)

    def apart(radius: int) -> float:
        down, right = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        disk = (down**2 + right**2 <= radius**2)[..., None].astype(float)
        mean = ndimage.convolve(image.astype(float), disk / disk.sum(), mode="mirror")
        return float(np.abs(corrupted + 0.5 - mean).mean())

    # The edge of the reference implementation's disk is slightly smoothed, which is visible at edges of the image.
    assert apart(radius) < 1.5
    assert apart(radius) < min(apart(radius - 1), apart(radius + 1))


def test_motion_blur_of_a_point_is_a_fading_trace() -> None:
    values = np.zeros((21, 21))
    values[10, 10] = 1.0
    weights = np.exp(-(np.arange(7) ** 2) / (2 * 2.0**2))
    trace = move(values, radius=3, sigma=2.0, angle=0)
    # Steps to the left along the row: the first stays where it is.
    np.testing.assert_allclose(trace[10, 10:3:-1], weights / weights.sum(), atol=1e-12)
    assert trace.sum() == pytest.approx(1)
    np.testing.assert_allclose(move(values, 3, 2.0, angle=-90)[10:17, 10], weights / weights.sum(), atol=1e-12)
    np.testing.assert_allclose(move(np.full((4, 3), 0.7), 20, 15, 30), 0.7, atol=1e-12)


@every_severity
def test_glass_blur_moves_pixels_at_most_by_its_reach(severity: int) -> None:
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    image = flat(0, 121)
    image[60, 60] = 255
    down, right = np.nonzero(corrupt(image, "glass_blur", severity, 0, 1)[..., 0])
    # Within a round a color can propagate to later rows and columns, up and to the left.
    margin = 2 * int(4 * sigma + 0.5)
    assert max(down.max(), right.max()) <= 60 + rounds * reach + margin
    assert (corrupt(flat(90, 50), "glass_blur", severity, 0, 1) >= 88).all()


@every_severity
def test_fog_by_its_formula(severity: int) -> None:
    density = (1.5, 2.0, 2.5, 2.5, 3.0)[severity - 1]
    foggy = corrupt(flat(255, 64), "fog", severity, 0, 1) / 255
    # White w: (1 + density * cloud) / (1 + density), the cloud from 0 to 1 over the whole square.
    assert foggy.min() == pytest.approx(1 / (1 + density), abs=0.005)
    assert foggy.max() == 1
    assert not corrupt(flat(0, 64), "fog", severity, 0, 1).any(), "the maximum is unchanged"


def test_plasma_wraps_around() -> None:
    clouds = plasma(100, 2.0, np.random.default_rng(0))
    assert clouds.shape == (128, 128)
    assert (clouds.min(), clouds.max()) == (0, 1)
    steps = np.abs(np.diff(np.concatenate([clouds, clouds[:1]]), axis=0)).mean(1)
    assert steps[-1] < 3 * steps[:-1].mean(), "no seam between the last row and the first"
    rough, smooth = (plasma(128, decay, np.random.default_rng(0)) for decay in (1.4, 3.0))
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(smooth)).mean()


def test_snow_makes_the_image_paler_and_brighter() -> None:
    dark = corrupt(flat(0), "snow", 1, 0, 1)
    # Without a flake black becomes (1 - 0.8) * 0.5 = 0.1; flakes are only added.
    assert dark.min() == 25
    assert dark.max() > 100
    assert (dark[..., 0] == dark[..., 1]).all()
    assert (corrupt(flat(255), "snow", 1, 0, 1) == 255).all()


def test_water_is_turquoise_and_mud_brown() -> None:
    water = corrupt(flat(0), "spatter", 2, 0, 1).reshape(-1, 3)
    brightest = water[water[:, 1].argmax()]
    np.testing.assert_allclose(brightest / brightest[1], np.array([175, 238, 238]) / 238, atol=0.02)
    mud = corrupt(flat(255), "spatter", 4, 0, 1).reshape(-1, 3)
    share = (255 - mud[:, 0].min()) / (255 - 63)
    assert 0.8 <= share <= 1.01
    np.testing.assert_allclose(255 - mud.min(0), share * (255 - np.array([63, 42, 20])), atol=3)


def test_frost_is_a_weighted_sum() -> None:
    texture = frost_texture(50, 40, np.random.default_rng(3))
    assert texture.shape == (50, 40, 3)
    dark, light = (corrupt(np.full((50, 40, 3), level, np.uint8), "frost", 3, 0, 1).astype(int) for level in (0, 60))
    assert (abs(light - dark - 42) <= 1)[light < 255].all(), "0.7 of the image"
    assert dark.max() <= 0.7 * 255 + 1 or frost_source() == "generated"


def test_generated_frost_resembles_the_photographs() -> None:
    textures = [frost_texture(120, 160, np.random.default_rng(seed)) for seed in range(20)]
    assert 90 < np.mean([texture.mean() for texture in textures]) < 215
    assert np.mean([texture.std((0, 1)).mean() for texture in textures]) > 10
    assert np.mean([texture[..., 2].mean() - texture[..., 0].mean() for texture in textures]) > 5, "bluish"


def test_photographs_of_frost_are_used_if_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from panformer_cli.data.corruptions import frost_texture as module

    (tmp_path / "imagecorruptions" / "frost").mkdir(parents=True)
    (tmp_path / "imagecorruptions" / "__init__.py").write_text("raise ImportError('needs an older NumPy')")
    for number in range(1, 6):
        suffix = "png" if number < 4 else "jpg"
        path = tmp_path / "imagecorruptions" / "frost" / f"frost{number}.{suffix}"
        cv2.imwrite(str(path), np.full((30, 50, 3), (200, 100, 0), np.uint8))  # BGR
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    module._photographs.cache_clear()
    try:
        assert frost_source() == "photographs"
        color = frost_texture(70, 64, np.random.default_rng(0)).reshape(-1, 3).mean(0)
        np.testing.assert_allclose(color, (0, 100, 200), atol=2)
        corrupted = corrupt(flat(100, 8), "frost", 1, 0, 1)
        np.testing.assert_allclose(corrupted.mean((0, 1)), (100, 140, 180), atol=2)
    finally:
        module._photographs.cache_clear()


@every_corruption
def test_real_images_stay_recognizable(name: str, shared: Path) -> None:
    """At the highest severity the coarse brightness still correlates with the original."""
    image = read_image(shared / "data" / "photos" / "truck.jpg")[:400, :600]
    small = cv2.resize(corrupt(image, name, 5, 0, 1), (12, 8), interpolation=cv2.INTER_AREA).mean(2)
    original = cv2.resize(image, (12, 8), interpolation=cv2.INTER_AREA).mean(2)
    assert np.corrcoef(small.ravel(), original.ravel())[0, 1] > 0.6
