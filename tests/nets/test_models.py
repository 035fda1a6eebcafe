"""All models of Sec. 3: any size of scene, a gradient for every weight, weights from the seed alone, and who shares what with whom."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dcnas_nets.models import IntegratedDCNet, SceneModel, SequentialDCNet, build_model
from dcnas_nets.unet import UNet, level_widths, pad_to_stride
from dcnas_schema.params import ClassifierSpec, DenoiserSpec, JointSpec, ModelSpec, UNetSpec

REDUCED = UNetSpec(depth=4, base=8, multiplier=1.5, convs=2)
BASELINE = UNetSpec(depth=4, base=32, multiplier=2.0, convs=2)
SPECS: dict[str, ModelSpec] = {
    "integrated": JointSpec(kind="joint", join="integrated", unet=REDUCED),
    "sequential": JointSpec(kind="joint", join="sequential", unet=REDUCED),
    "denoiser": DenoiserSpec(kind="denoiser", unet=REDUCED),
    "conv": ClassifierSpec(kind="classifier", classifier="conv", images="clean"),
    "mbconv": ClassifierSpec(kind="classifier", classifier="mbconv", images="noisy"),
}
LARGE: dict[str, ModelSpec] = {
    "baseline integrated": JointSpec(kind="joint", join="integrated", unet=BASELINE),
    "baseline sequential": JointSpec(kind="joint", join="sequential", unet=BASELINE),
    "baseline denoiser": DenoiserSpec(kind="denoiser", unet=BASELINE),
}
SIZES = [(28, 28), (29, 29), (31, 56), (56, 57), (64, 97), (97, 33), (97, 97)]


def inputs(batch: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random scenes and random boxes that lie inside."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 3, height, width, generator=generator)
    corners = [torch.randint(0, side - 27, (batch, 2), generator=generator) for side in (height, width)]
    return image, torch.stack(corners, dim=-1)


def check_output(model: SceneModel, spec: ModelSpec, image: Tensor, corners: Tensor) -> None:
    """Assert that a forward pass gives finite values of the right shapes for the model's tasks, and nothing for the others."""
    restored, logits = model(image, corners)
    assert (restored is None) == (spec.kind == "classifier")
    assert (logits is None) == (spec.kind == "denoiser")
    if restored is not None:
        assert restored.shape == image.shape
        assert restored.isfinite().all()
    if logits is not None:
        assert logits.shape == (len(image), 2, 10)
        assert logits.isfinite().all()


@pytest.fixture
def global_generator() -> Iterator[None]:
    """Puts torch's global generator back as it was."""
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


@pytest.fixture(scope="module")
def made() -> dict[str, SceneModel]:
    """Each small model, for tests that do not depend on its mode and its batch norms' statistics."""
    return {name: build_model(spec, seed=0) for name, spec in SPECS.items()}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SPECS)
def test_any_size_goes_through(made: dict[str, SceneModel], name: str, size: tuple[int, int]) -> None:
    """A batch of one in eval mode and of two in training, of odd, even and oblong sizes, come out at the size they went in."""
    model = made[name]
    with torch.no_grad():
        check_output(model.eval(), SPECS[name], *inputs(1, *size))
        check_output(model.train(), SPECS[name], *inputs(2, *size))


@pytest.mark.parametrize("name", LARGE)
def test_the_baselines_take_odd_sizes_too(name: str) -> None:
    """The wide nets pad and crop inside as the narrow ones do."""
    with torch.no_grad():
        check_output(build_model(LARGE[name], seed=0).eval(), LARGE[name], *inputs(1, 61, 47))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    spec=st.builds(
        UNetSpec,
        depth=st.integers(1, 6),
        base=st.integers(1, 9),
        multiplier=st.sampled_from([1.0, 1.3, 1.5, 2.0]),
        convs=st.integers(1, 3),
    ),
    height=st.integers(28, 97),
    width=st.integers(28, 97),
    join=st.sampled_from(["integrated", "sequential"]),
)
def test_any_unet_takes_any_size(spec: UNetSpec, height: int, width: int, join: str) -> None:
    """Over the whole space {d, b, m, c} both joint models restore a scene of any size at its size and classify its digits."""
    joint = JointSpec.model_validate({"kind": "joint", "join": join, "unet": spec})
    with torch.no_grad():
        check_output(build_model(joint, seed=0).eval(), joint, *inputs(1, height, width))


@pytest.mark.parametrize("name", [*SPECS, *LARGE])
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    """No weight is left out of the loss, in any model."""
    model = build_model({**SPECS, **LARGE}[name], seed=0).train()
    restored, logits = model(*inputs(2, 28, 33))
    sum(output.square().mean() for output in (restored, logits) if output is not None).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    weights = [p.grad for n, p in model.named_parameters() if n.endswith("weight") and p.dim() > 1]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in weights)


@pytest.mark.parametrize("name", SPECS)
def test_a_scene_alone_gives_what_it_gives_in_a_batch(name: str) -> None:
    """In eval mode scenes do not see each other, and no digit of one is taken for that of another."""
    model = build_model(SPECS[name], seed=0).eval()
    image, corners = inputs(3, 57, 64)
    with torch.no_grad():
        together = model(image, corners)
        for i in range(3):
            alone = model(image[i : i + 1], corners[i : i + 1])
            for whole, single in zip(together, alone, strict=True):
                if whole is not None:
                    torch.testing.assert_close(whole[i], single[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("global_generator")
@pytest.mark.parametrize("name", SPECS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    """The same seed gives the same weights whatever the global generator holds, which stays as it was; another seed gives others."""
    torch.manual_seed(1)
    first = build_model(SPECS[name], seed=5).state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(2)
    again = build_model(SPECS[name], seed=5).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    other = build_model(SPECS[name], seed=6).state_dict()
    assert not any(
        torch.equal(value, other[key]) for key, value in first.items() if key.endswith("weight") and value.dim() > 1
    )


def changed(model: SceneModel, part: str) -> SceneModel:
    """Shift all weights of one part of a model."""
    with torch.no_grad():
        for parameter in model.get_submodule(part).parameters():
            parameter.add_(0.1)
    return model


def outputs(name: str, part: str | None) -> tuple[Tensor, Tensor]:
    """Return what a joint model says, after its weights in `part` were shifted."""
    model = build_model(SPECS[name], seed=0).eval()
    with torch.no_grad():
        restored, logits = (changed(model, part) if part else model)(*inputs(2, 56, 56))
    assert restored is not None
    assert logits is not None
    return restored, logits


@pytest.mark.parametrize(
    ("name", "part", "restores_otherwise", "classifies_otherwise"),
    [
        ("integrated", "head", False, True),
        ("integrated", "decoder", True, False),
        ("integrated", "encoder", True, True),
        ("sequential", "classifier", False, True),
        ("sequential", "unet.decoder", True, True),
        ("sequential", "unet.encoder", True, True),
    ],
)
def test_what_each_task_depends_on(name: str, part: str, restores_otherwise: bool, classifies_otherwise: bool) -> None:
    """Integrated: decoder and head share the encoder and nothing else. Sequential: the classifier sees what the decoder made."""
    for before, after, differs in zip(
        outputs(name, None), outputs(name, part), (restores_otherwise, classifies_otherwise), strict=True
    ):
        assert torch.equal(before, after) != differs


def test_the_integrated_net_holds_the_same_denoiser_as_the_sequential() -> None:
    """Encoder and decoder have the same shapes in both, and the head replaces the classifier."""
    joints = {name: build_model(SPECS[name], seed=0) for name in ("integrated", "sequential")}
    assert isinstance(joints["integrated"], IntegratedDCNet)
    assert isinstance(joints["sequential"], SequentialDCNet)
    shapes = [
        {key.removeprefix("unet."): value.shape for key, value in model.state_dict().items()}
        for model in joints.values()
    ]
    shared = [{k: v for k, v in part.items() if k.startswith(("encoder", "decoder"))} for part in shapes]
    assert shared[0] == shared[1]
    assert len(shared[0]) > 50


@pytest.mark.parametrize(
    ("name", "images"), [("conv", "clean"), ("mbconv", "noisy"), ("integrated", "noisy"), ("denoiser", "noisy")]
)
def test_a_model_says_which_images_it_wants(name: str, images: str) -> None:
    """Only a classifier of clean digits is fed clean scenes."""
    assert build_model(SPECS[name], seed=0).images == images


@pytest.mark.parametrize(
    ("spec", "widths"),
    [
        (REDUCED, [8, 12, 18, 27]),
        (BASELINE, [32, 64, 128, 256]),
        (UNetSpec(depth=1, base=5, multiplier=3.0, convs=1), [5]),
    ],
)
def test_level_widths_are_those_of_the_paper(spec: UNetSpec, widths: list[int]) -> None:
    """Each level is the multiplier times as wide as the one above."""
    assert level_widths(spec) == widths


@pytest.mark.parametrize("size", [(16, 24), (17, 24), (16, 31), (1, 1)])
def test_padding_repeats_the_edge_to_the_next_multiple(size: tuple[int, int]) -> None:
    """Height and width grow to multiples of the stride, the image stays, the new rows and columns repeat its edge."""
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    padded = pad_to_stride(image, 8)
    height, width = size
    assert all(side % 8 == 0 for side in padded.shape[-2:])
    assert padded.shape[-2] - height < 8
    assert torch.equal(padded[..., :height, :width], image)
    assert torch.equal(padded[..., -1, :width], image[..., -1, :])
    assert torch.equal(padded[..., :height, -1], image[..., -1])


def test_restoring_an_odd_size_is_restoring_the_padded_scene() -> None:
    """What is padded inside is cropped again, at the right end."""
    unet = UNet(REDUCED).eval()
    image, _ = inputs(1, 37, 50)
    with torch.no_grad():
        assert torch.equal(unet(image), unet(pad_to_stride(image, 8))[..., :37, :50])


def test_shapes_are_checked_under_pytest() -> None:
    """A one-channel scene is refused by the signature: the shape checks of this test run are on."""
    with pytest.raises(Exception, match="image_BCHW"):
        build_model(SPECS["denoiser"], seed=0)(torch.zeros(1, 1, 32, 32), torch.zeros(1, 2, 2, dtype=torch.int64))
