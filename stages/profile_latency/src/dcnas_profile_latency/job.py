"""One latency profile: from parameters and a device to one Parquet file."""

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from dcnas_harness.errors import BadInputError, UnfitEnvironmentError
from dcnas_harness.files import atomic_write, write_text
from dcnas_latency.canary import CanaryStore, session_best
from dcnas_latency.card import cpu_card, device_card, fingerprint
from dcnas_latency.files import read_profile, require_setting, require_space, write_profile
from dcnas_latency.gate import Conditions, build_gate, judged_anew, require_passed
from dcnas_latency.lock import device_lock
from dcnas_latency.profile import NetSample, Profile, Profiler
from dcnas_latency.rig import Rig
from dcnas_latency.simulated import Law, SimulatedRig, simulated_card
from dcnas_latency.store import SampleStore
from dcnas_latency.watch import Watch, foreign_processes_before_context
from dcnas_lineage.collect import collect_provenance
from dcnas_lineage.inputs import run_digest
from dcnas_profile_latency.process_rig import ProcessRig
from dcnas_profile_latency.runtimes import DeviceKind
from dcnas_profile_latency.sessions import Session, Sessions
from dcnas_schema.latency import Gate, LatencyProtocol, LatencySetting, ProfileMetadata
from dcnas_schema.params import DeviceParams, ProfileLatencyParams, Section, digest_of
from dcnas_schema.provenance import DeviceCard, DeviceState
from dcnas_schema.sampling import random_nets
from dcnas_schema.space import OP_SETS

_CODE = ("dcnas_profile_latency", "dcnas_latency", "dcnas_nets")
_POINTS_KEPT = 200
T = TypeVar("T")
_REFUSED = "refused"
"""File beside the samples that says which limits refused them."""
_SIMULATED = Law(noise=0.005)
"""The law of the smoke preset's device."""


class Settings(Section):
    """The parameters that a profile depends on."""

    device: DeviceParams
    profile_latency: ProfileLatencyParams


def profile_job(settings: Settings, out: Path, scratch: Path, *, canary_folder: Path | None = None) -> ProfileMetadata:
    """
    Measure the device, or take the profile that the parameters name; write it to `out`.

    An interrupted profile of the same code, parameters and device goes on where it stopped. One that its gate refused is measured anew,
    unless the parameters that judge it were changed: then what was measured is judged again.

    Args:
        canary_folder: Where it is kept how fast this machine's reference op is on good days; `None`: in `scratch`.

    Raises:
        UnfitEnvironmentError: The device or runtime is missing, or the noise gate is closed.

        BadInputError: The profile named is of another setting, or lacks some of the ops or a reference net.

        CorruptArtefactError: It is damaged.
    """
    params = settings.profile_latency
    if params.source == "file":
        return _take_file(settings, out)
    setting = setting_of(settings)
    with ExitStack() as stack:
        opened = _open_rig(settings, setting, canary_folder or scratch / "canary", stack)
        rig, card = opened.rig, opened.card
        folder = scratch / "profile_latency" / _digest(settings, card)
        _forget_refused(folder, params)
        kept = None if params.runtime == "simulated" else folder
        sessions = Sessions(rig, stack.enter_context(_watched(card)), kept, opened.cores)
        sessions.look()
        profiler = Profiler(
            rig=rig,
            setting=setting,
            params=params,
            store=SampleStore(folder=kept),
            learn_canary=opened.learn_canary,
            on_round=sessions.after_round,
            on_turn=sessions.after_turn,
        )
        profile = profiler.run(_draw_nets(params))
        sessions.look()
        _require_same_card(card, rig)
        session = sessions.all()
    gate = _gate(params, opened, profile, session)
    if kept is not None and not gate.passed:
        write_text(folder / _REFUSED, digest_of(params.limits))
    require_passed(gate)
    metadata = _metadata(settings, setting, card, profile, rig, session=session, gate=gate)
    write_profile(out, profile.entries, metadata)
    shutil.rmtree(folder, ignore_errors=True)
    return metadata


def setting_of(settings: Settings) -> LatencySetting:
    """Return the setting that the parameters ask for."""
    params = settings.profile_latency
    return LatencySetting(
        runtime=params.runtime,
        provider=_provider(settings) if params.runtime == "onnxruntime" else None,
        batch=params.batch,
        precision=params.precision,
        memory_format="contiguous" if params.runtime == "onnxruntime" else params.memory_format,
        height=params.image_size,
        width=params.image_size,
        classes=params.classes,
        threads=settings.device.threads,
        cache=params.cache,
        tf32=_in_tf32(params, device_kind(settings.device)),
    )


def _in_tf32(params: ProfileLatencyParams, kind: DeviceKind) -> bool:
    return params.tf32 and kind == "cuda" and params.precision == "fp32" and params.runtime != "simulated"


def _provider(settings: Settings) -> str:
    named = settings.profile_latency.provider
    if named is not None:
        return named
    return "CUDAExecutionProvider" if device_kind(settings.device) == "cuda" else "CPUExecutionProvider"


def _take_file(settings: Settings, out: Path) -> ProfileMetadata:
    assert settings.profile_latency.file is not None
    source = Path(settings.profile_latency.file)
    if not source.is_file():
        raise BadInputError(
            f"{source} does not exist.",
            where="profile_latency.file",
            remedy="copy the profile that `dcnas profile` wrote on the other device there",
        )
    entries, metadata = read_profile(source)
    require_setting(source, metadata, _setting_elsewhere(settings, metadata.setting))
    params = settings.profile_latency
    require_space(entries, metadata, OP_SETS[params.ops])
    lacking = sorted(set(params.references) - {one.net for one in metadata.references})
    if lacking:
        raise BadInputError(
            f"{source} does not hold the latency of {', '.join(lacking)}, which profile_latency.references names.",
            where="profile_latency.file",
            remedy=f"profile that device with: dcnas profile --reference {' --reference '.join(lacking)}",
        )
    gate = judged_anew(metadata.gate, params.limits, allow_noisy=params.allow_noisy)
    require_passed(gate)
    if [check.passed for check in gate.checks] == [check.passed for check in metadata.gate.checks]:
        with atomic_write(out) as temporary:
            shutil.copyfile(source, temporary)
        return metadata
    judged = metadata.model_copy(
        update={"gate": gate}
    )  # by today's limits another verdict, which every reader must see
    write_profile(out, entries, judged)
    return judged


def _setting_elsewhere(settings: Settings, found: LatencySetting) -> LatencySetting:
    """
    Return the setting that a profile of another device must have.

    Threads are that device's own, as `device.threads` are of this one; so is the provider, where none is named, and whether there is TF32.
    """
    params = settings.profile_latency
    provider = found.provider if params.runtime == "onnxruntime" and params.provider is None else params.provider
    named = settings.model_copy(update={"profile_latency": params.model_copy(update={"provider": provider})})
    own = {"threads": found.threads, "tf32": found.tf32 and params.tf32}
    return setting_of(named).model_copy(update=own)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    """The device, ours as long as it is locked."""

    rig: Rig
    card: DeviceCard
    learn_canary: Callable[[Sequence[float]], float]
    """Takes canary times in ms and returns what they are on this machine's good days."""
    cores: tuple[int, ...] = ()
    """That is timed on; empty for all."""
    used_before_gb: float | None = None
    """Memory of a GPU in use before our processes came; `None` on a CPU, or where NVML does not tell."""


def _open_rig(settings: Settings, setting: LatencySetting, canary_folder: Path, stack: ExitStack) -> _Opened:
    """Return the rig on a device that is ours until the stack is left: its processes start, and load libraries, under the lock."""
    params = settings.profile_latency
    if params.runtime == "simulated":
        simulated = SimulatedRig(law=_SIMULATED, seed=params.seed, builds=params.builds)
        card = simulated_card(setting.threads)
        return _Opened(rig=stack.enter_context(simulated), card=card, learn_canary=session_best)
    kind = device_kind(settings.device)
    stack.enter_context(device_lock(_card_here(kind, setting.threads), exclusive=True))
    used_before_gb = None if kind == "cpu" else foreign_processes_before_context().used_memory_gb
    rig = stack.enter_context(ProcessRig(setting, kind, builds=params.builds, warm_calls=params.warm_calls))
    card = rig.card
    store = CanaryStore(
        folder=canary_folder,
        fingerprint=fingerprint(card),
        runtime=setting.runtime,
        threads=setting.threads,
        op=rig.canary_op,
    )
    return _Opened(
        rig=rig,
        card=card,
        learn_canary=lambda times: store.learn(times).best_ms,
        cores=rig.cores,
        used_before_gb=used_before_gb,
    )


def _card_here(kind: DeviceKind, threads: int) -> DeviceCard:
    """Return the device's card as this process sees it, which names the lock: those who measure do not run yet."""
    return cpu_card(threads) if kind == "cpu" else device_card("cuda")


def device_name(settings: Settings) -> str:
    """Return the name of the device that would be profiled, as its card says it."""
    params = settings.profile_latency
    if params.runtime == "simulated":
        return simulated_card(settings.device.threads).name
    return _card_here(device_kind(settings.device), settings.device.threads).name


def device_kind(device: DeviceParams) -> DeviceKind:
    """
    Return where the nets are to run; without torch that is the CPU.

    Raises:
        UnfitEnvironmentError: CUDA is asked for and is not there.
    """
    if device.kind == "cpu":
        return "cpu"
    found = False
    if importlib.util.find_spec("torch") is not None:
        import torch

        found = torch.cuda.is_available()
    if device.kind == "cuda" and not found:
        raise UnfitEnvironmentError(
            "device.kind is cuda, but there is no CUDA device (or no torch that finds it).",
            remedy="set device.kind: auto or cpu, or install the driver and a CUDA build of torch",
        )
    return "cuda" if found else "cpu"


@contextmanager
def _watched(card: DeviceCard) -> Iterator[Callable[[], Sequence[tuple[float, DeviceState]]]]:
    """Poll a GPU's clocks and throttle reasons while the block runs; its processes are counted elsewhere, by who owns them."""
    if card.kind == "cpu":
        yield lambda: ()
        return
    with Watch("cuda:0") as watch:
        yield lambda: [(seconds, state.model_copy(update={"other_processes": None})) for seconds, state in watch.states]


def _draw_nets(params: ProfileLatencyParams) -> NetSample:
    """Return the whole nets, half of each use of full depth and half of less: a search may end with either."""
    generator = np.random.Generator(np.random.PCG64([params.seed, 2]))
    fit, held_out = (
        random_nets(generator, count, ops=OP_SETS[params.ops], width_multiple=params.width_multiple)
        for count in (params.fit_nets, params.held_out_nets)
    )
    return NetSample(fit=fit, held_out=held_out)


def _digest(settings: Settings, card: DeviceCard) -> str:
    """Return what the folder of the samples is named by: all that they depend on, hence not what only judges them."""
    judging = {"profile_latency": {"allow_noisy", "limits", "confidence"}}
    params = json.dumps(settings.model_dump(mode="json", exclude=judging), sort_keys=True)
    libraries = f"{card.torch or 'none'}, onnxruntime {card.onnxruntime or 'not used'}"
    parts = {"params": params, "device": fingerprint(card), "torch": libraries}
    code = [
        package for package in _CODE if importlib.util.find_spec(package) is not None
    ]  # a box without torch lacks the nets
    return run_digest(parts, code)


def _forget_refused(folder: Path, params: ProfileLatencyParams) -> None:
    """Delete samples that these limits have refused, unless noise is allowed now: they would be refused again."""
    with suppress(FileNotFoundError):
        if (folder / _REFUSED).read_text() == digest_of(params.limits) and not params.allow_noisy:
            shutil.rmtree(folder)


def _require_same_card(card: DeviceCard, rig: Rig) -> None:
    if isinstance(rig, ProcessRig) and (now := rig.card_now()) != card:
        changed = [name for name in DeviceCard.model_fields if getattr(now, name) != getattr(card, name)]
        raise UnfitEnvironmentError(
            f"The device changed while it was profiled: {', '.join(changed)}.",
            remedy="keep power caps, MIG and core bindings as they are, then run the same command again",
        )


def _gate(params: ProfileLatencyParams, opened: _Opened, profile: Profile, session: Session) -> Gate:
    share = 0.0 if params.runtime == "simulated" else session.others_share  # a formula has no neighbours
    return build_gate(
        summaries=profile.summaries,
        samples=profile.net_samples,
        rejected=profile.rejected,
        accuracy=profile.accuracy,
        plan=profile.plan,
        conditions=Conditions(
            states=session.states,
            timed=session.timed,
            others_share=share,
            cuda=opened.card.kind == "cuda",
            counters_rise=session.counters_rise,
            used_before_gb=opened.used_before_gb,
            session_slow_pct=profile.session_slow_pct,
        ),
        limits=params.limits,
        allow_noisy=params.allow_noisy,
    )


def _metadata(
    settings: Settings,
    setting: LatencySetting,
    card: DeviceCard,
    profile: Profile,
    rig: Rig,
    *,
    session: Session,
    gate: Gate,
) -> ProfileMetadata:
    params = settings.profile_latency
    simulated = params.runtime == "simulated"
    return ProfileMetadata(
        device=card,
        setting=setting,
        protocol=LatencyProtocol(
            in_context=rig.in_context,
            processes=rig.builds,
            rounds=params.rounds * rig.builds,
            warm_calls=params.warm_calls,
            clock=rig.clock,
            canary_band_pct=params.canary_band_pct,
            canary_reference_ms=profile.canary_reference_ms,
            levelled=True,
            session_slow_pct=profile.session_slow_pct,
            interval_confidence=profile.interval_confidence,
            rejected=dict(sorted(profile.rejected.items())),
            seconds=0.0 if simulated else round(session.seconds, 1),
        ),
        states=((0.0, session.states[0][1]),)
        if simulated
        else tuple(_thinned(session.states)),  # a formula's clock stands still
        canary=() if simulated else tuple(_thinned(session.canary)),
        plan=profile.plan,
        calibration=profile.calibration,
        accuracy=profile.accuracy,
        depths=profile.depths,
        nets=profile.nets,
        references=profile.references,
        gate=gate,
        provenance=collect_provenance(
            stage="profile_latency",
            item="",
            params_sha256=digest_of(settings),
            seed=params.seed,
            inputs=(),
            device=card,
        ),
    )


def _thinned(points: Sequence[tuple[float, T]]) -> list[tuple[float, T]]:
    """Return at most `_POINTS_KEPT` of the points in time, first and last among them."""
    chosen = sorted({round(i) for i in np.linspace(0, len(points) - 1, _POINTS_KEPT)}) if points else []
    return [points[i] for i in chosen]
