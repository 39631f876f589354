"""Layouts enumerated to valid tuples. The invariants here hold for any engine; an engine's own rules come later."""

from __future__ import annotations

from tuner.space.config import Layout
from tuner.space.schema import LayoutSpec


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
