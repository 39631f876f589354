"""Layouts enumerated to valid tuples. The invariants here hold for any engine; an engine's own rules come later."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.space.config import Layout
from tuner.space.schema import LayoutSpec

NEEDS = "GPUs = tp x dp must be one of `gpus`, attn_dp and ep must divide tp, and dp and attn_dp exclude each other"


def enumerate_layouts(spec: LayoutSpec) -> tuple[Layout, ...]:
    """Every valid (tp, dp, attn_dp, ep), in the order of the file.

    GPUs = tp x dp must be one of `gpus`; attention-DP groups divide tp; replicas and attention DP exclude each other;
    ep divides tp (experts are spread over the same GPUs).
    """
    gpus = {spec.gpus} if isinstance(spec.gpus, int) else set(spec.gpus)
    found = {
        Layout(tp, dp, attn_dp, tp if ep == "tp" else ep): None
        for tp in spec.tp
        for dp in spec.dp
        for attn_dp in spec.attn_dp
        for ep in spec.ep
        if tp * dp in gpus and tp % attn_dp == 0 and (dp == 1 or attn_dp == 1) and tp % (tp if ep == "tp" else ep) == 0
    }
    return tuple(found)


def unused_parts(spec: LayoutSpec, layouts: tuple[Layout, ...]) -> Iterator[tuple[str, int, int | str]]:
    """Listed values that no layout has, such as tp 3 on 8 GPUs: (part, index, value)."""
    for part in ("tp", "dp", "attn_dp", "ep", "gpus"):
        listed = getattr(spec, part)
        used = {getattr(layout, part) for layout in layouts}
        for i, value in enumerate(listed if isinstance(listed, list) else ()):
            if value != "tp" and value not in used:
                yield part, i, value
