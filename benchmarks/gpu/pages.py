"""Make the page of a GPU from its JSON file alone; a test compares each page with its file."""

from typing import Any

from hpm_video.report.document import Block, Heading, Paragraph, Table, to_markdown
from hpm_video.report.recipe_costs import RECIPES

Stages = dict[str, Any]
NOT = "not measured"
TOP_KERNELS = 15


def render(content: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    stages: Stages = content["stages"]
    speed, profile = results_of(stages, "speed"), results_of(stages, "profile")
    blocks = [*head(stages), Heading("To reach"), targets_table(speed, profile)]
    blocks += truth_blocks(results_of(stages, "truth")) + speed_blocks(speed, content)
    blocks += profile_blocks(profile) + feed_blocks(results_of(stages, "feed")) + missing_blocks(stages)
    machine = next(iter(stages.values()))["machine"]
    return to_markdown(f"Measured on {machine.get('card') or 'a CPU (no figure of a GPU)'}", blocks)


def results_of(stages: Stages, name: str) -> dict[str, Any]:
    """Return the results of a stage, {} if it has none."""
    return stages.get(name, {}).get("results", {})


def head(stages: Stages) -> list[Block]:
    """Return the command, the machine and how each stage ended."""
    one = next(iter(stages.values()))
    machine = one["machine"]
    commit = machine.get("commit") or {}
    versions = machine.get("versions") or {}
    installed = [f"{name} {version}" for name, version in versions.items() if version]
    text = (
        f"`python benchmarks/gpu/run.py --out DIR --device {one['device']}{' --tiny' if one['tiny'] else ''}` on {one['date']}, "
        f"commit {(commit.get('commit') or 'unknown')[:12]}{' with changes' if commit.get('dirty') else ''}. "
        f"Driver {machine.get('driver') or 'unknown'}, CUDA {machine.get('cuda') or 'unknown'}, {machine.get('cores')} cores; "
        f"{', '.join(installed) or 'versions unknown'}. Medians, with the least and the most of the rounds. Every figure is in the "
        "JSON file of the same name."
    )
    rows = [[s["stage"], s["status"], f"{s['seconds']:.0f}", s["reason"]] for s in stages.values()]
    small = [Paragraph("**The small form: its figures mean nothing.**")] if one["tiny"] else []
    return [*small, Paragraph(text), Table(["stage", "ended", "seconds", "why"], rows)]


def measured_rows(speed: dict[str, Any], size: str, name: str, mode: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a step that have a rate."""
    return [
        row
        for row in speed.get("measured", [])
        if (row["size"], row["name"]) == (size, name) and row["clips_per_s"] and mode in (None, row["mode"])
    ]


def best_rate(speed: dict[str, Any], size: str, name: str) -> dict[str, Any] | None:
    """Return the row of the fastest mode."""
    return max(measured_rows(speed, size, name), key=lambda row: row["clips_per_s"]["median"], default=None)


def time_ratio(speed: dict[str, Any], size: str, row: dict[str, Any] | None = None) -> float | None:
    """Return the median time of a clip in units of the peer's in the same rounds. Without a row: that of `hpm`, eager."""
    row = row or next(iter(measured_rows(speed, size, "hpm", "eager")), None)
    if row is None:
        return None
    peers = measured_rows(speed, size, "hf_videomae")
    peer = next((p for p in peers if p["group"] == row["group"] and p["mode"] == row["mode"]), None)
    if peer is None:
        return None
    pairs = zip(row["seconds_per_clip"], peer["seconds_per_clip"], strict=True)
    ratios = sorted(a / b for a, b in pairs)
    return ratios[len(ratios) // 2] if len(ratios) % 2 else sum(ratios[len(ratios) // 2 - 1 : len(ratios) // 2 + 1]) / 2


def idle_share(profile: dict[str, Any]) -> float | None:
    """Return the share of time in which the GPU waits for the host in training.

    It is measured with graphs if they were recorded, and without a profiler, which slows the host.
    """
    graphs = profile.get("step_with_graphs") or {}
    step = graphs if graphs.get("recorded") else profile.get("step") or {}
    return step.get("idle_share_without_profiler")


def hours(rate: float, num_clips: int, epochs: int) -> float:
    """Return the hours of a training at `rate` clips per second."""
    return num_clips * epochs / rate / 3600


def targets(speed: dict[str, Any], profile: dict[str, Any]) -> list[tuple[str, float | None, str, bool | None]]:
    """Return (aim, value, value as text, whether it is reached) of each aim; None: not measured."""
    found = []

    def add(aim: str, value: float | None, text: str, least: float | None = None, most: float | None = None) -> None:
        good = None if value is None else (least is None or value >= least) and (most is None or value <= most)
        found.append((aim, value, NOT if value is None else text.format(value), good))

    rows = {size: best_rate(speed, size, "hpm") for size in ("s", "b", "l")}
    rates = {size: row and row["clips_per_s"]["median"] for size, row in rows.items()}
    for size in ("b", "l"):
        row = rows[size]
        add(
            f"ViT-{size.upper()}, hpm: MFU of the maker's peak >= 45 %",
            row and row["mfu_of_peak"],
            "{:.1%}",
            least=0.45,
        )
    add("ViT-B, hpm: >= 1,000 clips/s", rates["b"], "{:,.0f}", least=1000)
    for size in ("s", "b", "l"):
        add(f"ViT-{size.upper()}: time of hpm <= 1.0 x hf_videomae's", time_ratio(speed, size), "{:.2f}", most=1.0)
    add("ViT-B: time of hpm <= 0.75 x hf_videomae's", time_ratio(speed, "b"), "{:.2f}", most=0.75)
    add("the GPU waits for the host < 3 % of the time", idle_share(profile), "{:.1%}", most=0.03)
    ssv2 = None if rates["b"] is None else hours(rates["b"], RECIPES[0].num_train, 800)
    add("SSv2, 800 epochs, ViT-B, hpm: <= 40 GPU-hours", ssv2, "{:.1f}", most=40)
    return found


def targets_table(speed: dict[str, Any], profile: dict[str, Any]) -> Table:
    """Return the aims, the measured values and the verdicts."""
    words = {True: "reached", False: "not reached", None: NOT}
    return Table(["aim", "here", ""], [[aim, text, words[good]] for aim, _, text, good in targets(speed, profile)])


def truth_blocks(truth: dict[str, Any]) -> list[Block]:
    """Return the outcomes of the tests."""
    tests = truth.get("tests", [])
    left = [name for name in truth.get("planned", []) if name not in {test["name"] for test in tests}]
    rows = [[t["name"], t["outcome"], f"{t['seconds']:.1f}", _numbers(t["numbers"]), t["reason"]] for t in tests]
    rows += [[name, "not run", "", "", ""] for name in left]
    return [
        Heading("Truth"),
        Table(["test", "outcome", "seconds", "numbers", "why"], rows) if rows else Paragraph(f"{NOT}."),
    ]


def _numbers(numbers: dict[str, Any]) -> str:
    parts = []
    for name, value in numbers.items():
        if isinstance(value, bool | int):
            parts.append(f"{name} {value}")
        elif isinstance(value, float):
            parts.append(f"{name} {value:.2g}")
    return ", ".join(parts)


def speed_blocks(speed: dict[str, Any], content: dict[str, Any]) -> list[Block]:
    """Return the rates of all steps."""
    if not speed.get("measured"):
        return [Heading("Speed"), Paragraph(f"{NOT}.")]
    names = ["model", "step", "mode", "clips", "clips/s", "predicted", "time / hf_videomae"]
    names += ["MFU", "of a product", "peak GiB"]
    rows = [_speed_row(row, speed, content["predicted"]) for row in speed["measured"]]
    peak, used = speed.get("peak_flops"), content["predicted_with"]
    maker = f"{peak / 1e12:,.0f} TFLOP/s" if peak else "not known"
    text = (
        f"16 x 224 px, {speed.get('precision')}, whole steps with optimizer and teacher, without data loading. The matrix product: "
        f"{speed['product_flops'] / 1e12:,.3g} TFLOP/s; the maker's peak: {maker}. MFU uses the FLOPs counted from the shapes. "
        f"Predicted: each stage takes the time of its FLOPs at {used['flops'] / 1e12:,.0f} TFLOP/s or of its bytes at "
        f"{used['bytes'] / 1e12:.1f} TB/s, with {used['clips']} clips and nothing fused."
    )
    left = [f"{gone['group']} ({gone['reason']})" for gone in speed.get("left_out", [])]
    more = [Paragraph(f"Left out: {'; '.join(left)}.")] if left else []
    return [Heading("Speed"), Table(names, rows), Paragraph(text), *more]


def _speed_row(row: dict[str, Any], speed: dict[str, Any], predicted: dict[str, Any]) -> list[str]:
    start = [f"ViT-{row['size'].upper()}", row["name"], row["mode"]]
    if not row["clips_per_s"]:
        return [*start, "", f"{NOT}: {row['fault']}", "", "", "", "", ""]
    rate, ratio = row["clips_per_s"], time_ratio(speed, row["size"], row)
    mode = row["mode"] if row.get("recorded", True) else f"{row['mode']} (not recorded)"
    forecast = predicted.get(f"{row['size']} {row['name']}")
    rates = f"{rate['median']:,.0f} ({rate['low']:,.0f} to {rate['high']:,.0f})"
    shares = ["" if row[key] is None else f"{row[key]:.1%}" for key in ("mfu_of_peak", "mfu_of_product")]
    peak = f"{row['peak_gib']:.1f}" if "peak_gib" in row else ""
    cells = [*start[:2], mode, str(row["clips"]), rates, f"{forecast['clips_per_s']:,.0f}" if forecast else ""]
    return [*cells, "" if ratio is None else f"{ratio:.2f}", *shares, peak]


def profile_blocks(profile: dict[str, Any]) -> list[Block]:
    """Return idle time, kernels and stages of a step."""
    step = profile.get("step")
    if not step:
        return [Heading("Profile"), Paragraph(f"{NOT}.")]
    rows = []
    for name in ("step", "step_with_graphs"):
        found = profile.get(name)
        if found and found["idle_share"] is not None:
            label = "without graphs" if name == "step" else "graphs" if found["recorded"] else "graphs (not recorded)"
            shares = [f"{found[key]:.1%}" for key in ("idle_share", "idle_share_without_profiler")]
            rows.append([label, str(found["clips"]), *shares, f"{found['num_kernels'] / found['steps']:,.0f}"])
    blocks: list[Block] = [
        Heading(f"Profile of a step of hpm, ViT-{step['size'].upper()}"),
        Table(["steps", "clips", "time without a kernel, profiled", "not profiled", "kernels of a step"], rows),
        Table(["kernel", "count", "ms", "share"], [_kernel_row(k) for k in step["kernels"][:TOP_KERNELS]]),
    ]
    if profile.get("copies"):
        rates = ", ".join(f"{name.replace('_', ' ')} {rate:,.0f} GB/s" for name, rate in profile["copies"].items())
        blocks.append(Paragraph(f"Copies: {rates}."))
    if profile.get("stages"):
        used = profile["ceilings"]
        text = f"Ceilings of this run: {used['flops'] / 1e12:,.3g} TFLOP/s and {used['bytes'] / 1e12:.3g} TB/s."
        blocks += [_stage_table(profile["stages"]), Paragraph(text)]
    return blocks


def _kernel_row(kernel: dict[str, Any]) -> list[str]:
    return [
        f"`{kernel['name'][:90]}`",
        str(kernel["count"]),
        f"{1e3 * kernel['seconds']:.2f}",
        f"{kernel['share']:.1%}",
    ]


def _stage_table(rows: list[dict[str, Any]]) -> Table:
    whole = sum(row["seconds"] for row in rows)
    lines = [
        [row["stage"], f"{row['flops_per_byte'] or 0:,.0f}", row["limit"], f"{row['seconds'] / whole:.1%}"]
        for row in rows
    ]
    return Table(["stage", "FLOP/byte", "its ceiling", "share of the predicted time"], lines)


def feed_blocks(feed: dict[str, Any]) -> list[Block]:
    """Return the rates of the loader and of training from files."""
    loaders = {repeats: feed.get(f"loader_repeats_{repeats}", {}) for repeats in (1, 4)}
    workers = list(dict.fromkeys([*loaders[1], *loaders[4]]))
    if not workers:
        return [Heading("Feed"), Paragraph(f"{NOT}.")]
    rows = [[count, *(f"{loaders[r][count]:,.0f}" if count in loaders[r] else "" for r in (1, 4))] for count in workers]
    blocks: list[Block] = [
        Heading("Feed"),
        Table(["loader processes", "clips/s", "clips/s, data.repeats=4"], rows),
        Paragraph(f"From {feed.get('source')}, clips of {feed['clips'][0]} x {feed['clips'][1]} px."),
    ]
    runs = [
        [name, f"{r['clips_per_s']:,.0f}", f"{r['wait_share']:.1%}", ""]
        if "clips_per_s" in r
        else [name, NOT, "", r["fault"]]
        for name, r in feed.get("training", {}).items()
    ]
    return [*blocks, Table(["training from files", "clips/s", "waiting for data", "why"], runs)] if runs else blocks


def missing_blocks(stages: Stages) -> list[Block]:
    """Return the packages that were missing, and the consequence of each."""
    missing = {name: about for s in stages.values() for name, about in s["missing"].items()}
    if not missing:
        return []
    rows = [[name, about["error"], about["consequence"]] for name, about in missing.items()]
    return [Heading("Not installed there"), Table(["package", "error", "consequence"], rows)]
