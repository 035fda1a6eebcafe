"""params.yaml: a wrong value ends, before any work, in one message that names the key and the value."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcnas_harness.errors import BadInputError
from dcnas_schema import params as params_module
from dcnas_schema.params import JointSpec, Params, digest_of, load_params, read_yaml
from dcnas_schema.search_params import SearchSupernetParams

PRESETS = Path(__file__).resolve().parents[2] / "presets"
SMOKE = (PRESETS / "smoke.yaml").read_text(encoding="utf-8")
VALUES: dict[str, Any] = read_yaml(PRESETS / "smoke.yaml")
HUGE = 10**30
NAN, INF = float("nan"), float("inf")

# What a user may put in the place of a value of each type, and what must never pass.
WRONG = {
    int: ["1e-3", "2", True, None, NAN, INF, -1, 1.5, [1], {}],
    float: ["1e-3", "0.5", True, None, NAN, INF, -1.0, [0.5], {}],
    bool: ["yes", "on", "true", 1, 0, None, []],
    str: ["", 1, 1.5, True, [], {}],
    list: [None, 1.0, "0.5", [], {}, [None], ["x"], [True], [NAN], [INF], [-1.0], [1.0, 1.0, "x"]],
    type(None): [1, 1.5, True, [], {}],  # generate_data.digits.root
}
NULLABLE = {"generate_data.photos.most_classes", "retrain_photos.grad_clip", "retrain_photos.learning_rate_batch"}
"""Keys of numbers that `null` leaves out."""
ALLOWED = {"generate_data.photos.files": ([], ["x"]), "profile_latency.references": ([],)}
"""Values of `WRONG` that are right at their key."""
ZERO_IS_WRONG = [
    "device.threads",
    "generate_data.digits.size",
    "generate_data.digits.scenes.train",
    "generate_data.digits.scenes.validation",
    "generate_data.digits.scenes.test",
    "retrain.epochs",
    "retrain.batch_size",
    "retrain.learning_rate",
    "retrain.loss.charbonnier_epsilon",
    "retrain.plateau.factor",
    "evaluate.batch_size",
    "evaluate.latency.batch",
    "evaluate.latency.repeats",
    "evaluate.latency.canary_band_pct",
    "evaluate.panel.scenes",
    "tabulate.confidence",
    "models.unet_s.unet.depth",
    "models.unet_s.unet.base",
    "models.unet_s.unet.multiplier",
    "models.unet_s.unet.convs",
    "generate_data.photos.size",
    "generate_data.photos.most.train",
    "photo_view.size",
    "photo_view.centre_share",
    "search_supernet.epochs",
    "search_supernet.batch_size",
    "search_supernet.clip",
    "search_supernet.temperature.start",
    "derive_genotype.repeats",
    "retrain_photos.epochs",
    "retrain_photos.learning_rate",
    "evaluate_photos.batch_size",
    "evaluate_photos.panel.images",
]
TOO_LARGE = {
    "noise.sigmas": [1e30],
    "generate_data.digits.background": [0.1, 1.5],
    "models.unet_s.unet.multiplier": 1e30,
    "retrain.plateau.factor": 1.0,
    "tabulate.confidence": 1.0,
    "device.threads": 100_000,
    "generate_data.digits.size": 1_000_000,
    "generate_data.digits.seed": 2**32,
    "evaluate.noise_seed": 2**32,
    "models.unet_s.unet.depth": 40,
    "generate_data.photos.validation_share": 1.0,
    "photo_view.flip": 1.1,
    "photo_view.jitter.hue": 0.6,
    "photo_noise.sigmas": [1e30],
    "searches.noisy_s.target.reach": 1.5,
    "search_supernet.momentum": 1.0,
    "retrain_photos.loss.label_smoothing": 1.0,
    "photo_models.unet_s.unet.depth": 40,
}
KEPT = {
    ("models",): {"unet_s", "classifier_conv_noisy", "dcnet_reduced_integrated"},
    ("photo_models",): {"dc_nas_s", "dc_random_s", "unet_s", "lpienet_025", "dc_nas_m_mbconv", "resnet18_clean"},
    ("searches",): {"noisy_s"},
}
"""Of the models and of the searches, which are alike, one of each kind."""
ONE_OF = {"search", "random", "like", "target"}
"""Keys of which a model or a target has one or another: what is missing or wrong is said of the whole."""
DEFAULTED = {
    ("search_supernet",),
    ("derive_genotype",),
    ("photo_models", "images"),
    ("photo_models", "decoder"),
    ("profile_latency", "tf32"),
    ("profile_latency", "references"),
    ("evaluate", "unsynchronised"),
    ("evaluate_photos", "unsynchronised"),
}
"""Sections, and keys of a section, that may be left out: their defaults are the paper's, or change nothing."""


def leaves(values: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the key paths of all values that are not mappings, of the models and searches those of `KEPT`."""
    if not isinstance(values, dict):
        return [path]
    kept = KEPT.get(path, set(values))
    return [leaf for key, value in values.items() if key in kept for leaf in leaves(value, (*path, key))]


def at(values: Any, path: tuple[str, ...]) -> Any:
    """Return the value at a key path."""
    for key in path:
        values = values[key]
    return values


def place_of(path: tuple[str, ...]) -> str:
    """Return the key path that a message names: for a model's `kind`, which decides what the rest may be, the model's."""
    return ".".join(path[:-1] if path[0] in ("models", "photo_models") and path[-1] == "kind" else path)


def is_optional(path: tuple[str, ...]) -> bool:
    """Return whether a key may be left out, or has its absence told of what holds it."""
    of_a_model = path[0] in ("models", "photo_models") and path[-1] == "epochs"
    return of_a_model or bool(ONE_OF & set(path)) or bool({path[:1], (path[0], path[-1])} & DEFAULTED)


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return the smoke preset with another value at a key path."""
    values = copy.deepcopy(VALUES)
    at(values, path[:-1])[path[-1]] = value
    return values


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], str]:
    """A function that gives the message with which values, as if read from params.yaml, are refused."""

    def message(values: Any) -> str:
        monkeypatch.setattr(params_module, "read_yaml", lambda _path: values)
        with pytest.raises(BadInputError) as caught:
            load_params(Path("params.yaml"))
        return str(caught.value)

    return message


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str | bytes], Params]:
    """A function that loads parameters from text or bytes in a file."""

    def from_text(text: str | bytes) -> Params:
        path = tmp_path / "params.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_params(path)

    return from_text


@pytest.mark.parametrize("name", ["demo", "paper", "smoke"])
def test_every_preset_loads_and_carries_its_name(name: str) -> None:
    """A stored preset is valid, and its label is its file's name."""
    assert load_params(PRESETS / f"{name}.yaml").preset == name


def test_the_paper_preset_is_the_paper() -> None:
    """30,000 MNIST scenes of 96 pixels, eleven noise levels, 100 epochs of Adam at 1e-3, loss weights 0.1 and 0.9 (Sec. 3)."""
    paper = load_params(PRESETS / "paper.yaml")
    digits = paper.generate_data.digits
    assert (digits.source, digits.size, digits.background) == ("mnist", 96, (0.1, 0.3))
    assert digits.scenes.train + digits.scenes.validation + digits.scenes.test == 30_000
    assert paper.noise.sigmas == tuple(level / 10 for level in range(11))
    assert (paper.retrain.epochs, paper.retrain.learning_rate) == (100, 1e-3)
    assert (paper.retrain.loss.cross_entropy, paper.retrain.loss.charbonnier) == (0.1, 0.9)
    assert (paper.evaluate.latency.batch, paper.evaluate.latency.warmup, paper.evaluate.latency.repeats) == (
        32,
        100,
        1000,
    )
    reduced = paper.models["dcnet_reduced_integrated"]
    assert isinstance(reduced, JointSpec)
    assert (reduced.unet.depth, reduced.unet.base, reduced.unet.multiplier, reduced.unet.convs) == (4, 8, 1.5, 2)


@pytest.mark.parametrize("path", [path for path in leaves(VALUES) if "target" not in path], ids=".".join)
def test_a_value_of_another_type_is_refused_by_its_key(path: tuple[str, ...], refused: Callable[[Any], str]) -> None:
    """At every key a wrong type, null, NaN, infinity or a negative number is refused, naming the key and the value."""
    key = ".".join(path)
    for wrong in WRONG[type(at(VALUES, path))]:
        if (wrong is None and key in NULLABLE) or wrong in ALLOWED.get(key, ()):
            continue
        message = refused(changed(path, wrong))
        assert place_of(path) in message, f"{wrong!r}: {message}"
        if not isinstance(wrong, (list, dict)):
            assert repr(wrong) in message, message


@pytest.mark.parametrize("path", [leaf for leaf in leaves(VALUES) if type(at(VALUES, leaf)) is int], ids=".".join)
def test_a_count_beyond_reason_is_refused(path: tuple[str, ...], refused: Callable[[Any], str]) -> None:
    """10**30 scenes, epochs, pixels or repeats are a slip of the finger: refused, naming the key and the value."""
    message = refused(changed(path, HUGE))
    assert ".".join(path) in message
    assert str(HUGE) in message


@pytest.mark.parametrize("key", ZERO_IS_WRONG)
def test_zero_is_refused_where_it_makes_no_sense(key: str, refused: Callable[[Any], str]) -> None:
    """Counts, sizes, rates and factors of 0 are refused, naming the key."""
    path = tuple(key.split("."))
    message = refused(changed(path, type(at(VALUES, path))(0)))
    assert f"{key} = 0" in message


@pytest.mark.parametrize("key", TOO_LARGE)
def test_a_value_above_its_range_is_refused(key: str, refused: Callable[[Any], str]) -> None:
    """What lies above the range of its key is refused, naming the key."""
    assert key in refused(changed(tuple(key.split(".")), TOO_LARGE[key]))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("runs.models", ["unet_x"], ["runs.models", "'unet_x'", "did you mean 'unet_s'"]),
        ("runs.models", ["unet_s", "unet_s"], ["runs", "models repeat", "unet_s"]),
        ("runs.seeds", [1, 1], ["runs", "seeds repeat", "[1, 1]"]),
        ("noise.sigmas", [0.5, 0.5], ["noise", "repeat", "0.5"]),
        ("evaluate.panel.sigmas", [0.25], ["evaluate.panel.sigmas", "0.25", "noise.sigmas"]),
        ("generate_data.digits.background", [0.3, 0.1], ["generate_data.digits", "background", "[0.3, 0.1]"]),
        ("generate_data.digits.source", "mnist", ["generate_data.digits", "root", "mnist"]),
        ("retrain.batch_size", 64, ["retrain.batch_size", "64", "generate_data.digits.scenes.train", "32"]),
        ("evaluate.panel.scenes", 9, ["evaluate.panel.scenes", "9", "generate_data.digits.scenes.test", "8"]),
        ("device.kind", "gpu", ["device.kind", "'gpu'", "cuda"]),
        ("models.unet_s.kind", "denoisr", ["models.unet_s", "denoisr", "denoiser"]),
        ("preset", "My preset", ["preset", "'My preset'"]),
        ("photo_runs.models", ["unet_x"], ["photo_runs.models", "'unet_x'", "did you mean 'unet_s'"]),
        ("photo_runs.models", ["unet_s", "unet_s"], ["photo_runs", "models repeat", "unet_s"]),
        ("photo_runs.models", ["dc_nas_m"], ["photo_models.dc_nas_m", "'noisy_m'", "search_runs.searches leaves out"]),
        ("photo_runs.models", ["dc_random_m"], ["photo_models.dc_random_m", "'noisy_m'", "leaves out"]),
        ("photo_models.dc_nas_m.search", "nosy_m", ["photo_models.dc_nas_m", "'nosy_m'", "did you mean 'noisy_m'"]),
        ("photo_models.dc_nas_s.kind", "dc_nass", ["photo_models.dc_nas_s", "dc_nass", "dc_nas_seq"]),
        ("search_runs.searches", ["noisy_t"], ["search_runs.searches", "'noisy_t'", "did you mean 'noisy_s'"]),
        ("search_runs.seeds", [1, 1], ["search_runs", "seeds repeat", "[1, 1]"]),
        ("searches.noisy_s.target", {"ms": 1.0, "reach": 0.5}, ["searches.noisy_s.target", "{ms: x}"]),
        ("searches.noisy_s.target", {"relative": 1.0}, ["searches.noisy_s.target", "to: a reference net"]),
        (
            "searches.noisy_s.target",
            {"relative": 1.0, "to": "resnet18"},
            ["searches.noisy_s.target", "resnet18", "profile_latency.references"],
        ),
        ("evaluate_photos.panel.sigmas", [0.25], ["evaluate_photos.panel.sigmas", "0.25", "photo_noise.sigmas"]),
        ("photo_view.size", 31, ["photo_view.size is 31", "32 pixels"]),
        ("retrain_photos.batch_size", 25, ["retrain_photos.batch_size is 25", "24 photos", "train"]),
        ("search_supernet.batch_size", 13, ["search_supernet.batch_size is 13", "12 photos", "validation"]),
        ("generate_data.photos.most", None, ["generate_data.photos", "most is empty", "demo"]),
    ],
)
def test_values_that_contradict_each_other_are_named(
    key: str, value: Any, words: list[str], refused: Callable[[Any], str]
) -> None:
    """A reference to nothing, a repeat or an impossible combination is refused with both keys and both values."""
    message = refused(changed(tuple(key.split(".")), value))
    assert all(word in message for word in words), message


def test_models_and_searches_that_do_not_run_may_name_each_other() -> None:
    """Every row of the paper is described in each preset; only those that run need their search to run."""
    for name in ("demo", "paper", "smoke"):
        params = load_params(PRESETS / f"{name}.yaml")
        assert "joint_m" not in params.search_runs.searches
        assert "dc_nas_m_joint" in params.photo_models
    assert set(load_params(PRESETS / "paper.yaml").photo_models) - {"dc_nas_m_joint"} == set(
        load_params(PRESETS / "paper.yaml").photo_runs.models
    )


def test_the_paper_preset_is_the_papers_second_half() -> None:
    """Sec. 4: 224 pixels, sigma up to 1; search 90 epochs at 2e-2, batch 32; retraining 250 at 2e-1, batch 512; losses of Eq. 2 and 3."""
    paper = load_params(PRESETS / "paper.yaml")
    search, retrain = paper.search_supernet, paper.retrain_photos
    assert (paper.generate_data.photos.source, paper.photo_view.size, search.view) == (
        "imagenet100",
        224,
        paper.photo_view,
    )
    assert (search.epochs, search.learning_rate, search.batch_size) == (90, 0.02, 32)
    assert search == SearchSupernetParams(view=paper.photo_view), "the defaults are the paper's"
    assert (retrain.epochs, retrain.learning_rate, retrain.batch_size) == (250, 0.2, 512)
    for loss in (search.loss, retrain.loss):
        assert (loss.cross_entropy, loss.denoising, loss.charbonnier, loss.ssim) == (0.1, 0.9, 0.8, 0.2)
    assert (search.sigma, paper.photo_noise.highest) == (1.0, 1.0)
    assert paper.photo_runs.seeds == paper.search_runs.seeds == (0, 1, 2)
    assert {paper.searches[name].ops for name in paper.search_runs.searches} == {4, 6, 8}


@pytest.mark.parametrize("key", ["searches.noisy_s.ops", "photo_models.dc_random_s.random.ops"])
def test_ops_that_the_profile_does_not_cover_are_refused(key: str, refused: Callable[[Any], str]) -> None:
    """A search or a draw among more ops than the latency table has is refused with both keys."""
    values = changed(tuple(key.split(".")), 8)
    values["profile_latency"]["ops"] = 6
    message = refused(values)
    assert f"{key} is 8, more than the 6 that profile_latency.ops covers" in message


def test_both_loss_weights_zero_are_refused(refused: Callable[[Any], str]) -> None:
    """A loss that trains nothing is refused, and the reason is given."""
    loss = {"cross_entropy": 0.0, "charbonnier": 0.0, "charbonnier_epsilon": 1e-3}
    message = refused(changed(("retrain", "loss"), loss))
    assert "retrain.loss" in message
    assert "nothing would be trained" in message


@pytest.mark.parametrize(
    ("path", "key", "nearest"),
    [
        (("retrain",), "lerning_rate", "learning_rate"),
        ((), "retrian", "retrain"),
        (("retrain", "plateau"), "patiense", "patience"),
        (("generate_data", "digits", "scenes"), "trian", "train"),
        (("models", "unet_s", "unet"), "multiplyer", "multiplier"),
        (("models", "unet_s"), "epoch", "epochs"),
        (("evaluate", "latency"), "repeat", "repeats"),
        (("generate_data", "photos"), "encodng", "encoding"),
        (("generate_data", "photos", "most"), "trian", "train"),
        (("photo_models", "unet_s", "unet"), "multiplyer", "multiplier"),
        (("photo_models", "dc_nas_s"), "serch", "search"),
        (("searches", "noisy_s"), "bta", "beta"),
        (("searches", "noisy_s", "target"), "rech", "reach"),
        (("search_supernet", "architecture"), "evry", "every"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest(
    path: tuple[str, ...], key: str, nearest: str, refused: Callable[[Any], str]
) -> None:
    """An unknown key is refused by its whole path, with the known key that is most like it."""
    message = refused(changed((*path, key), 1))
    assert f"{'.'.join((*path, key))}: unknown key; did you mean '{nearest}'?" in message


SECTIONS = sorted({leaf[:i] for leaf in leaves(VALUES) for i in range(len(leaf))} - set(KEPT))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    path=st.sampled_from(SECTIONS),
    key=st.text(alphabet=st.characters(categories=["L", "N"], include_characters="_- ."), min_size=1, max_size=12),
    value=st.one_of(
        st.none(), st.booleans(), st.integers(), st.text("abc"), st.dictionaries(st.text("ab"), st.integers())
    ),
)
def test_an_unknown_key_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[str, ...], key: str, value: Any
) -> None:
    """Whatever its name, value and depth, a key that no section knows is refused by its path."""
    if key in at(VALUES, path) or is_optional((*path, key)):
        return
    file = tmp_path_factory.getbasetemp() / "unknown.yaml"
    file.write_text(json.dumps(changed((*path, key), value), ensure_ascii=False), encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        load_params(file)
    assert f"{'.'.join((*path, key))}: unknown key" in str(caught.value)


@pytest.mark.parametrize("path", [leaf for leaf in leaves(VALUES) if not is_optional(leaf)], ids=".".join)
def test_a_missing_key_is_named(path: tuple[str, ...], refused: Callable[[Any], str]) -> None:
    """No key but those of `DEFAULTED` has a silent default: leaving one out is refused by its path."""
    values = copy.deepcopy(VALUES)
    del at(values, path[:-1])[path[-1]]
    message = refused(values)
    assert place_of(path) in message
    assert "missing" in message or path[-1] == "kind"


@pytest.mark.parametrize(("text", "rate"), [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("0.001", 1e-3), (".5", 0.5), ("1", 1.0)])
def test_numbers_are_those_of_yaml_1_2(load: Callable[[str], Params], text: str, rate: float) -> None:
    """`1e-3` is a float for us as it is for DVC, and an integer will do for a float."""
    assert load(SMOKE.replace("learning_rate: 1.0e-3", f"learning_rate: {text}")).retrain.learning_rate == rate


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "Yes", "y", "'true'"])
def test_the_booleans_of_yaml_1_1_are_text(load: Callable[[str], Params], text: str) -> None:
    """`yes` and `on` are no booleans in YAML 1.2: they are refused where a boolean is wanted."""
    with pytest.raises(BadInputError, match=r"noise\.clip = "):
        load(SMOKE.replace("clip: false", f"clip: {text}"))


@pytest.mark.parametrize(("text", "threads"), [("010", 10), ("0o10", 8), ("0x10", 16)])
def test_a_leading_zero_is_no_octal(load: Callable[[str], Params], text: str, threads: int) -> None:
    """`010` is ten, as for DVC; an octal number says so."""
    assert load(SMOKE.replace("threads: 1 ", f"threads: {text} ")).device.threads == threads


@pytest.mark.parametrize("text", ["1:30", "2,0", "two", "2 # two\n  kind: cpu"])
def test_other_spellings_of_numbers_are_refused(load: Callable[[str], Params], text: str) -> None:
    """Sexagesimal numbers, decimal commas and words are text, and a repeated key is an error."""
    with pytest.raises(BadInputError, match=r"threads|kind"):
        load(SMOKE.replace("threads: 1 ", f"threads: {text} "))


def test_a_repeated_key_is_refused_by_its_line(load: Callable[[str], Params]) -> None:
    """A key that stands twice is refused, naming key and line: neither the first nor the last wins in silence."""
    with pytest.raises(BadInputError, match=r'(?s)duplicate key "epochs".*line \d+'):
        load(SMOKE.replace("  epochs: 2 ", "  epochs: 2\n  epochs: 3 "))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["None", "object"]),
        ("# only a comment\n", ["None", "object"]),
        ("[1, 2]", ["[1, 2]", "object"]),
        ("hello", ["'hello'", "object"]),
        ("device: {kind: cpu", ["YAML", "line 1"]),
        ("device:\n\tkind: cpu", ["YAML", "line 2"]),
        (SMOKE + "---\na: 1\n", ["YAML", "document"]),
        (SMOKE.replace("smoke ", "smöke ").encode("latin-1"), ["YAML", "utf-8"]),
        (SMOKE.encode("utf-16"), ["YAML"]),
        (b"\x00", ["YAML"]),
        (SMOKE.replace("preset: smoke", "preset: !!python/object/apply:os.system [ls]"), ["YAML", "python/object"]),
    ],
    ids=["empty", "comment", "list", "scalar", "open", "tab", "two", "latin-1", "utf-16", "zero", "python"],
)
def test_a_file_that_is_no_mapping_is_refused(
    load: Callable[[str | bytes], Params], text: str | bytes, words: list[str]
) -> None:
    """An empty file, another form, broken YAML, another encoding or a code-running tag: one message that names the file and why."""
    with pytest.raises(BadInputError) as caught:
        load(text)
    assert all(word in str(caught.value) for word in ("params.yaml", *words)), str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "2020-01-01",
        "2020-01-01T10:00:00Z",
        "!!binary aGVsbG8=",
        "!!set {a, b}",
        "&a [*a]",
        "{[a, b]: 1}",
        "[" * 3000 + "]" * 3000,
    ],
    ids=["date", "time", "binary", "set", "cycle", "list for a key", "nested"],
)
def test_yaml_that_is_no_json_is_refused(load: Callable[[str], Params], value: str) -> None:
    """Dates, bytes, sets, cycles and endless nesting are bad input (exit 2) in params.yaml, not a bug of the program."""
    with pytest.raises(BadInputError, match=r"params\.yaml"):
        load(SMOKE.replace("preset: smoke", f"preset: {value}"))


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(load: Callable[[bytes], Params]) -> None:
    """A file saved by a Windows editor means the same."""
    content = SMOKE.encode()
    assert load(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")) == load(content)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    """No params.yaml is bad input, with the command that makes one."""
    with pytest.raises(BadInputError, match=r"(?s)params\.yaml does not exist.*dcnas preset demo"):
        load_params(tmp_path / "params.yaml")


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    """A folder given as the parameter file is bad input, not a bug."""
    with pytest.raises(BadInputError, match="params"):
        load_params(tmp_path)


def test_parameters_cannot_be_changed_after_the_check() -> None:
    """What was checked at the edge stays as it was checked."""
    params = load_params(PRESETS / "smoke.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.retrain.epochs = 3  # type: ignore[misc] # the assignment that must be refused


def test_the_digest_follows_the_values_alone(load: Callable[[str], Params]) -> None:
    """Comments, order and spelling leave a section's digest as it is; one changed value does not."""
    one = load(SMOKE).retrain
    same = load(SMOKE.replace("1.0e-3      # Adam (paper, Sec. 3)", "0.001")).retrain
    other = load(SMOKE.replace("learning_rate: 1.0e-3", "learning_rate: 2.0e-3")).retrain
    assert digest_of(one) == digest_of(same) != digest_of(other)
