"""The runtimes: what their programs compute, which can be marked, and what each says of a machine or setting that it cannot serve."""

import shutil
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch

from dcnas_harness.errors import BadInputError, UnfitEnvironmentError
from dcnas_latency.rig import Subject
from dcnas_latency.timers import CpuTimer, MarkedProgram, Program
from dcnas_nets.space import SpaceOutput, build_space_net
from dcnas_profile_latency.runtimes import DeviceKind, load_runtime
from dcnas_profile_latency.runtimes.onnxruntime import OnnxProgram
from dcnas_profile_latency.runtimes.torch_eager import TorchProgram
from dcnas_schema.genotype import uniform_genotype
from dcnas_schema.keys import Part
from dcnas_schema.latency import LatencySetting
from dcnas_schema.space import NET_KINDS, NetKind

Settings = Callable[..., LatencySetting]
Nets = Callable[..., Subject]
Alone = Callable[[Part], Subject]

MORE_THAN_TORCH_KEEPS = 10
COMPILE = f"""
import torch
from dcnas_latency.rig import Subject
from dcnas_latency.timers import MarkedProgram
from dcnas_profile_latency.runtimes import load_runtime
from dcnas_schema.genotype import parts_of, uniform_genotype
from dcnas_schema.latency import LatencySetting

fields = dict(batch=1, precision="fp32", memory_format="contiguous", height=32, width=32, classes=10, threads=1)
eager, compiled = (
    load_runtime(LatencySetting(runtime=name, **fields), "cpu") for name in ("torch_eager", "torch_compile")
)

def parts(classes):
    return parts_of("c_nas", uniform_genotype("k3_e3_se", 3), height=32, width=32, classes=classes)

def run(runtime, part):
    with runtime.context():
        program = runtime.prepare(Subject(kind=None, parts=(part,), genotype=None))
        assert isinstance(program, MarkedProgram) == runtime.in_context
        return program.run()

difference = (run(compiled, parts(10)[0]) - run(eager, parts(10)[0])).abs().max()
compile_module = torch.nn.Module.compile
torch.nn.Module.compile = lambda module, **options: compile_module(module, backend="eager", **options)
for classes in range({MORE_THAN_TORCH_KEEPS}):
    run(compiled, parts(classes + 1)[-1])
print(float(difference), torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""
"""Beartype's checks, which pytest switches on, cannot be compiled: so this runs in a process of its own."""


def prepared(setting: LatencySetting, subject: Subject) -> Program:
    """Return the program of a subject on a CPU."""
    runtime = load_runtime(setting, "cpu")
    with runtime.context():
        return runtime.prepare(subject)


def marks(program: Program) -> int:
    """Return how often a run is marked."""
    count = 0

    def mark() -> None:
        nonlocal count
        count += 1

    assert isinstance(program, MarkedProgram)
    program.run_marked(mark)
    return count


@pytest.mark.parametrize("kind", NET_KINDS)
def test_an_eager_net_is_the_space_net(setting: Settings, whole_net: Nets, kind: NetKind) -> None:
    """The outputs are those of the net of this genotype in eval mode with its weights, marked once a part or not at all."""
    subject, batch = whole_net(kind), 2
    program = prepared(setting(batch=batch), subject)
    assert isinstance(program, TorchProgram)
    assert subject.genotype is not None
    net = build_space_net(kind, subject.genotype, classes=10, seed=0).eval()
    net.load_state_dict(program.module.state_dict())
    with torch.inference_mode():
        ours, theirs = program.run(), net(*program.inputs)
        assert marks(program) == len(subject.parts)
    assert isinstance(ours, SpaceOutput)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (len(one) == batch and torch.equal(one, other))


def test_a_part_alone_is_marked_once(setting: Settings, whole_net: Nets, alone: Alone) -> None:
    """Every part of a net runs by itself too, like a net of one part."""
    for part in whole_net("dc_nas").parts:
        with torch.inference_mode():
            assert marks(prepared(setting(), alone(part))) == 1


def test_bf16_is_autocast_with_weights_cast_beforehand(setting: Settings, whole_net: Nets, alone: Alone) -> None:
    """Bit for bit what autocast computes from fp32 weights; a part's input is what the part before would give, the image fp32."""
    runtime, fp32 = load_runtime(setting(precision="bf16", batch=2), "cpu"), load_runtime(setting(batch=2), "cpu")
    for part in whole_net("dc_nas").parts:
        with runtime.context():
            program, reference = runtime.prepare(alone(part)), fp32.prepare(alone(part))
            assert isinstance(program, TorchProgram)
            assert isinstance(reference, TorchProgram)
            ours, theirs = program.run(), reference.module(*(x.clone() for x in program.inputs))
        assert isinstance(ours, torch.Tensor)
        assert torch.equal(ours, theirs)
        assert ours.dtype == torch.bfloat16
        assert {x.dtype for x in program.inputs} == {torch.float32 if part.key.part == "first_stem" else torch.bfloat16}
        convs = [layer for layer in program.module.modules() if isinstance(layer, torch.nn.Conv2d)]
        assert all(layer.weight.dtype == torch.bfloat16 for layer in convs)


@pytest.mark.parametrize("kind", NET_KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_value_is_infinite_or_subnormal(setting: Settings, whole_net: Nets, kind: NetKind, precision: str) -> None:
    """Some processors compute such values slowly: no part of a deep net gives one."""
    runtime = load_runtime(setting(precision=precision), "cpu")
    with runtime.context():
        program = runtime.prepare(whole_net(kind, uniform_genotype("k3_e6_se", 8)))
        assert isinstance(program, TorchProgram)
        least, most = [], []
        for layer in program.module.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(lambda _layer, _input, y: least.append(float(y.abs().float().mean())))
                layer.register_forward_hook(lambda _layer, _input, y: most.append(float(y.abs().max())))
        program.run()
    assert min(least) > 1e-20
    assert max(most) < 1e20


@pytest.mark.parametrize("memory_format", ["channels_last", "contiguous"])
def test_the_memory_format_holds_throughout(setting: Settings, whole_net: Nets, memory_format: str) -> None:
    """Weights, image and restored image lie as the setting says."""
    program = prepared(setting(memory_format=memory_format, height=48), whole_net("d_nas", height=48))
    assert isinstance(program, TorchProgram)
    with torch.inference_mode():
        output = program.run()
    assert isinstance(output, SpaceOutput)
    assert output.restored is not None
    wanted = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
    weights = [p for p in program.module.parameters() if p.dim() == 4]
    assert all(tensor.is_contiguous(memory_format=wanted) for tensor in [*weights, *program.inputs, output.restored])


def test_a_run_allocates_no_graph_and_no_gradient(setting: Settings, whole_net: Nets) -> None:
    """Programs run in eval mode under the runtime's context, which is inference mode."""
    runtime = load_runtime(setting(), "cpu")
    with runtime.context():
        program = runtime.prepare(whole_net("c_nas"))
        output = program.run()
    assert isinstance(program, TorchProgram)
    assert isinstance(output, SpaceOutput)
    assert output.logits is not None
    assert output.logits.is_inference()
    assert not any(module.training for module in program.module.modules())


def test_a_runtime_sets_the_threads(setting: Settings) -> None:
    """Torch and ONNX Runtime work with as many threads as the setting says."""
    load_runtime(setting(threads=2), "cpu")
    assert torch.get_num_threads() == 2
    runtime = load_runtime(setting(threads=1), "cpu")
    assert torch.get_num_threads() == 1
    assert isinstance(runtime.timer(cache="warm"), CpuTimer)


@pytest.mark.parametrize("kind", NET_KINDS)
def test_an_onnx_program_computes_finite_outputs(setting: Settings, whole_net: Nets, kind: NetKind) -> None:
    """A session with the setting's threads and provider writes outputs of the setting's batch; it cannot be marked."""
    program = prepared(setting(runtime="onnxruntime", batch=3), whole_net(kind))
    assert isinstance(program, OnnxProgram)
    assert not isinstance(program, MarkedProgram)
    assert program.session.get_session_options().intra_op_num_threads == 1
    assert program.session.get_providers() == ["CPUExecutionProvider"]
    program.run()
    outputs = program.binding.copy_outputs_to_cpu()
    assert len(outputs) == (2 if kind == "dc_nas" else 1)
    assert all(len(values) == 3 and np.isfinite(values).all() and np.abs(values).mean() > 1e-6 for values in outputs)


@pytest.mark.parametrize(
    ("runtime", "package", "install"),
    [
        ("torch_eager", "torch", "install torch"),
        ("torch_compile", "torch", "install torch"),
        ("onnxruntime", "onnxruntime", r"install dcnas-profile-latency\[onnx\]"),
        ("onnxruntime", "onnx", r"install dcnas-profile-latency\[onnx\]"),
    ],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, setting: Settings, runtime: str, package: str, install: str
) -> None:
    """Where a runtime's library is not installed the error (exit 3) says which package and what to install."""
    for name in list(sys.modules):
        if name.startswith("dcnas_profile_latency.runtimes."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnfitEnvironmentError, match=f"(?s){runtime} needs the package {package}.*{install}"):
        load_runtime(setting(runtime=runtime), "cpu")


def test_a_missing_module_of_our_own_is_a_bug(monkeypatch: pytest.MonkeyPatch, setting: Settings) -> None:
    """An import that fails for another reason is not reported as a missing runtime."""
    monkeypatch.delitem(sys.modules, "dcnas_profile_latency.runtimes.torch_eager")
    monkeypatch.setitem(sys.modules, "dcnas_nets.blocks", None)
    with pytest.raises(ModuleNotFoundError, match=r"dcnas_nets\.blocks"):
        load_runtime(setting(), "cpu")


@pytest.mark.parametrize("runtime", ["torch_eager", "torch_cuda_graph", "torch_compile"])
def test_cuda_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch, setting: Settings, runtime: str) -> None:
    """A CUDA device that torch does not find is the machine's fault (exit 3)."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    with pytest.raises(UnfitEnvironmentError, match="torch finds no CUDA device"):
        load_runtime(setting(runtime=runtime), "cuda")


def test_a_cuda_graph_on_a_cpu_is_refused(setting: Settings) -> None:
    """It needs a CUDA device."""
    with pytest.raises(UnfitEnvironmentError, match="device is a CPU"):
        load_runtime(setting(runtime="torch_cuda_graph"), "cpu")


def test_the_compiler_needs_a_cpp_compiler(monkeypatch: pytest.MonkeyPatch, setting: Settings) -> None:
    """Without a C++ compiler torch_compile is refused before anything is compiled."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(UnfitEnvironmentError, match=r"C\+\+ compiler"):
        load_runtime(setting(runtime="torch_compile"), "cpu")


def test_the_compiler_needs_triton_on_cuda(monkeypatch: pytest.MonkeyPatch, setting: Settings) -> None:
    """On CUDA the package triton is named."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    with pytest.raises(UnfitEnvironmentError, match="triton"):
        load_runtime(setting(runtime="torch_compile"), "cuda")


@pytest.mark.parametrize(
    ("device_kind", "field", "value", "allowed"),
    [
        ("cpu", "precision", "bf16", "fp32"),
        ("cpu", "memory_format", "channels_last", "contiguous"),
        ("cpu", "provider", None, "CPUExecutionProvider"),
        ("cpu", "provider", "CUDAExecutionProvider", "CPUExecutionProvider"),
        ("cuda", "provider", "CPUExecutionProvider", "CUDAExecutionProvider or TensorrtExecutionProvider"),
    ],
)
def test_onnxruntime_refuses_what_it_does_not_do(
    setting: Settings, device_kind: DeviceKind, field: str, value: str | None, allowed: str
) -> None:
    """A setting that would be timed as another one is bad input (exit 2), with the values that are allowed."""
    with pytest.raises(BadInputError, match=f"(?s){field}.*set {field}: {allowed}"):
        load_runtime(setting(runtime="onnxruntime", **{field: value}), device_kind)


def test_a_provider_that_this_build_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, setting: Settings) -> None:
    """The error (exit 3) lists the providers that there are."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UnfitEnvironmentError, match="no TensorrtExecutionProvider; it lists CPUExecutionProvider"):
        load_runtime(setting(runtime="onnxruntime", provider="TensorrtExecutionProvider"), "cuda")


def test_a_provider_that_does_not_start_is_refused(
    monkeypatch: pytest.MonkeyPatch, setting: Settings, whole_net: Nets
) -> None:
    """ONNX Runtime falls back to its CPU provider without an error; a time of that one must not pass for the other's."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda model, options, **_: session(model, options, ["CPUExecutionProvider"])
    )
    runtime = load_runtime(setting(runtime="onnxruntime", provider="CUDAExecutionProvider"), "cuda")
    with pytest.raises(UnfitEnvironmentError, match="CUDAExecutionProvider did not start"):
        runtime.prepare(whole_net("c_nas"))


def test_a_simulated_device_has_no_runtime(setting: Settings) -> None:
    """It is simulated elsewhere."""
    with pytest.raises(BadInputError, match="no runtime"):
        load_runtime(setting(runtime="simulated"), "cpu")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiler_compiles_every_net_as_one_graph(python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A compiled part computes what an eager one does, and more parts of one kind than torch keeps by itself stay compiled."""
    done = python("-c", COMPILE, OMP_NUM_THREADS="1", TORCHINDUCTOR_COMPILE_THREADS="1")  # no pool of processes
    assert done.returncode == 0, done.stderr
    difference, graphs = done.stdout.split()
    assert float(difference) < 1e-5
    assert int(graphs) == 1 + MORE_THAN_TORCH_KEEPS


def test_a_net_of_the_literature_runs_in_the_setting(setting: Callable[..., LatencySetting]) -> None:
    """Built by its library with plain values: finite logits for each class, for a whole batch, in bf16 too."""
    subject = Subject(kind=None, parts=(), genotype=None, reference="resnet18")
    for precision in ("fp32", "bf16"):
        runtime = load_runtime(setting(batch=2, precision=precision, memory_format="channels_last"), "cpu")
        with runtime.context():
            logits = runtime.prepare(subject).run()[1]
        assert logits.shape == (2, 10)
        assert torch.isfinite(logits).all()
