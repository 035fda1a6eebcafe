"""What a profile says of itself, in a few lines: printed whenever one is made or looked at."""

from pathlib import Path

from dcnas_latency.gate import describe
from dcnas_schema.latency import ProfileMetadata


def print_summary(metadata: ProfileMetadata, path: Path) -> None:
    """Print device, setting, plan, the predictor's error on held-out nets and the noise gate."""
    setting, plan, protocol = metadata.setting, metadata.plan, metadata.protocol
    print(
        f"latency profile {path}: {metadata.device.name}, {setting.runtime} {setting.precision} {setting.memory_format}, "
        f"batch {setting.batch} at {setting.height}x{setting.width}, {setting.threads} threads"
    )
    print(
        f"  table: {plan.entries} entries, {plan.held_out} held-out widths off by {plan.mean_error_pct:.1f} % in the mean "
        f"(bias {plan.bias_pct:+.1f} %, worst {plan.worst_error_pct:.1f} %); {_alignment(metadata)}; {protocol.seconds:.0f} s"
    )
    for one in metadata.accuracy:
        print(
            f"  {one.kind:<6} predicted on {one.nets} held-out nets, {one.full_depth} of full depth: MAPE {one.mape_pct:.1f} %, "
            f"bias {one.bias_pct:+.1f} %, {one.within_5_pct:.0f} % within 5 %, {one.within_10_pct:.0f} % within 10 %, "
            f"Spearman {one.spearman:.3f}; plain table {one.table_mape_pct:.1f} %; "
            f"interval ±{metadata.calibration.interval_pct[one.kind]:.1f} % holds {one.inside_interval_pct:.0f} %"
        )
    for part in metadata.depths:
        print(
            f"  {part.kind:<6} of {part.depth} depth alone ({part.nets}): MAPE {part.mape_pct:.1f} %, bias {part.bias_pct:+.1f} %, "
            f"worst {part.worst_pct:.1f} %, Spearman {part.spearman:.3f}"
        )
    for net in metadata.references:
        doubts = f"; NOISY: {', '.join(net.noise)}" if net.noise else ""
        print(f"  {net.net}: {net.measured_ms:.3f} ms [{net.low_ms:.3f}, {net.high_ms:.3f}]{doubts}")
    print(
        f"  intervals of medians attain {100 * protocol.interval_confidence:.3g} %, of so many rounds; canary in quiet moments "
        f"{protocol.session_slow_pct:.1f} % above its reference"
    )
    print(
        f"  noise gate: {metadata.gate.verdict if metadata.gate.passed else 'CLOSED, recorded because allow_noisy is set'}"
    )
    for check in metadata.gate.checks:
        word = "NOT TOLD" if not check.told else "ok" if check.passed else "NOT OK"
        print(f"    {word}  {describe(check)}")


def _alignment(metadata: ProfileMetadata) -> str:
    plan = metadata.plan
    if plan.stairs:
        return f"a staircase: every begun {plan.modulus} channels cost as many"
    if plan.modulus == plan.width_multiple:
        return "no alignment step seen"
    return f"multiples of {plan.modulus} run {plan.modulus_gain_pct:.1f} % under the others' line"
